"""The user's images: a folder, zip or tar with one directory per class."""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np

from heated.common import archives
from heated.common.errors import InputError
from heated.common.io import project_root
from heated.common.samples import SEEN, Samples, Split
from heated.datasets.base import Source, find_archive, samples_in_archives

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
PARTS = ({"train", "test"}, {"train", "query", "gallery"})


def image_folder(*, path: str, layout: str) -> Source:
    """Return the images at `path` as a data set.

    Args:
        path: Absolute, or relative to the project. If a relative path does not exist there, it is
            looked up in the mirror, without any `..` at its start.
        layout: "classes": one directory per class, at any depth. The directory that contains them
            all is not part of their names. "parts": the same inside `train` and `test`, or inside
            `train`, `query` and `gallery`, which are then the split.
    """
    copies = [project_root() / path]
    if not Path(path).is_absolute():
        parts = Path(os.path.normpath(path)).parts
        copies.append(Path(*(part for part in parts if part != os.pardir)))
    return Source("folder", [], LAYOUTS[layout], copies=[str(copy) for copy in copies])


def samples_by_directory(archive: Path, class_name: Callable[[PurePosixPath], str]) -> Samples:
    """Return an archive's images, sorted by class and name.

    `class_name` maps an image's directory to its class.
    """
    names = archives.names(archive)
    directories = image_directories(names)
    pairs = sorted((class_name(directory), name) for name, directory in directories.items())
    return samples_in_archives({archive: names}, {name: label for label, name in pairs})


def image_directories(names: list[str]) -> dict[str, PurePosixPath]:
    """Return the directory of each image, relative to the directory that contains all images."""
    images = {path: path.parent for path in map(PurePosixPath, names) if is_image(path)}
    top = os.path.commonpath(set(images.values())) if images else ""
    directories = {str(path): parent.relative_to(top) for path, parent in images.items()}
    check_depth(directories, "<class>/<image>")
    return directories


def check_depth(directories: Mapping[str, PurePosixPath], expected: str) -> None:
    """Raise InputError if an image is less deep than the pattern `expected`."""
    for name, directory in directories.items():
        if len(directory.parts) < expected.count("/"):
            raise InputError(f"the image {name} is in no class directory, expected {expected}")


def is_image(path: PurePosixPath) -> bool:
    """Return whether a file is named as an image and was not added by macOS to an archive."""
    added = path.name.startswith("._") or path.parts[0] == "__MACOSX"
    return path.suffix.lower() in SUFFIXES and not added


def read_classes(folder: Path) -> Samples:
    """Read the layout "classes"."""
    return samples_by_directory(find_archive(folder), str)


def read_parts(folder: Path) -> Samples:
    """Read the layout "parts".

    Raises:
        InputError: If the directories are not the parts, or some but not all test classes train.
    """
    archive = find_archive(folder)
    directories = image_directories(archives.names(archive))
    found = {directory.parts[0] for directory in directories.values()}
    if found not in PARTS:
        raise InputError(
            f"layout parts: got the directories {', '.join(sorted(found))}, expected train and "
            "test, or train, query and gallery, each with one directory per class"
        )
    check_depth(directories, "<part>/<class>/<image>")
    samples = samples_by_directory(archive, lambda path: str(PurePosixPath(*path.parts[1:])))
    part = np.array([directories[name].parts[0] for name in samples.names])
    split = Split(
        train=part == "train",
        query=np.isin(part, ["test", "query"]),
        gallery=np.isin(part, ["test", "gallery"]),
        tested="the test part" if "test" in found else "the query part, looked for in the gallery",
    )
    tested = np.unique(samples.labels[split.query])
    seen = np.intersect1d(tested, samples.labels[split.train])
    if 0 < len(seen) < len(tested):
        some = ", ".join(samples.class_names[label] for label in seen[:3])
        raise InputError(
            f"layout parts: got {len(seen)} of {len(tested)} test classes in train, such as {some},"
            f" expected none, or all to test {SEEN}. Put the images of a class into one part, or "
            "images of every test class into train."
        )
    return replace(samples, split=replace(split, tested=SEEN) if len(seen) else split)


LAYOUTS: dict[str, Callable[[Path], Samples]] = {"classes": read_classes, "parts": read_parts}
