"""Data sets as files and a reader, images in archives, and the user's own images."""

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

import numpy as np

from heated.common import archives
from heated.common.errors import InputError
from heated.common.io import project_root
from heated.common.samples import SEEN, Content, Samples, Split
from heated.datasets.download import RemoteFile
from heated.datasets.splits import split_classes

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tgz", ".tar.gz")
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
PARTS = ({"train", "test"}, {"train", "query", "gallery"})


@dataclass(frozen=True)
class Source:
    """A data set."""

    name: str
    files: Sequence[RemoteFile]  # to download
    reader: Callable[[Path], Samples]  # reads the folder with the files
    counts: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # images, classes per part
    # Users' names for the set unpacked or repacked, or absolute paths: one that exists replaces
    # the files.
    copies: Sequence[str] = ()

    def read(self, folder: Path) -> Samples:
        """Read the images; raise InputError if the number of images or classes is wrong."""
        samples = self.reader(folder)
        for part, (images, classes) in self.counts.items():
            assert samples.split is not None
            labels = samples.labels[samples.split.masks()[part]]
            if (len(labels), len(np.unique(labels))) != (images, classes):
                raise InputError(
                    f"{self.name}, {part}: got {len(labels)} images of {len(np.unique(labels))} "
                    f"classes, expected {images} of {classes}. Use a complete copy, or read it as "
                    "`source: {name: folder}`."
                )
        return samples


def find_archive(folder: Path) -> Path:
    """Return the only zip or tar in a data set's folder."""
    paths = sorted(path for path in folder.iterdir() if path.name.endswith(ARCHIVE_SUFFIXES))
    if len(paths) != 1:
        names = ", ".join(path.name for path in paths) or "none"
        raise InputError(f"{folder}: got the archives {names}, expected one. Run download.")
    return paths[0]


def samples_in_archives(
    members: Mapping[Path, Sequence[str]], classes: Mapping[str, str]
) -> Samples:
    """Return the images in `classes`, which maps their names to classes, in its order.

    `members` are the file names in each archive. Classes are numbered as they appear.
    """
    class_names = tuple(dict.fromkeys(classes.values()))
    if not class_names:
        raise InputError("got no images, expected image files in one directory per class")
    folded: dict[str, str] = {}
    for name in class_names:
        other = folded.setdefault(name.casefold(), name)
        if other != name:
            raise InputError(
                f"the classes {other!r} and {name!r} differ only in case, which is one class on "
                "some systems. Rename one, or merge their images."
            )
    missing = set(classes).difference(*members.values())
    if missing:
        raise InputError(
            f"{', '.join(map(str, members))}: {len(missing)} images in the set's list are missing, "
            f"such as {min(missing)}. Use a complete copy."
        )
    numbers = {name: number for number, name in enumerate(class_names)}
    positions = {name: position for position, name in enumerate(classes)}

    def contents() -> Iterator[tuple[int, Content]]:
        for path, names in members.items():
            for name, content in archives.read_members(path, positions.keys() & names):
                yield positions[name], content

    return Samples(
        class_names=class_names,
        labels=np.array([numbers[name] for name in classes.values()], dtype=np.int64),
        names=list(classes),
        split=None,
        contents=contents,
    )


def with_class_split(samples: Samples, train_classes: Collection[str]) -> Samples:
    """Return the samples with a split in which the named classes train and the others test."""
    train = np.isin(samples.class_names, list(train_classes))
    return replace(samples, split=split_classes(samples, train))


@contextmanager
def wrap_parse_errors(path: Path, table: str) -> Iterator[None]:
    """Raise InputError with the table's name and path for any error in parsing it."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # parsers raise about every kind there is
        raise InputError(
            f"{path}: {table} is damaged ({type(error).__name__}: {error}). Fetch it again."
        ) from error


def image_folder(*, path: str, layout: str) -> Source:
    """Return the images at `path` as a data set.

    Args:
        path: Absolute, or relative to the project, else to the mirror, there without any `..`.
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
    """Return an archive's images, sorted by class, the `class_name` of the directory, and name."""
    names = archives.member_names(archive)
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


def read_parts(folder: Path) -> Samples:
    """Read the layout "parts", in which all test classes train, or none."""
    archive = find_archive(folder)
    directories = image_directories(archives.member_names(archive))
    parts = {directory.parts[0] for directory in directories.values()}
    if parts not in PARTS:
        raise InputError(
            f"layout parts: got the directories {', '.join(sorted(parts))}, expected train and "
            "test, or train, query and gallery, each with one directory per class"
        )
    check_depth(directories, "<part>/<class>/<image>")
    samples = samples_by_directory(archive, lambda path: str(PurePosixPath(*path.parts[1:])))
    part = np.array([directories[name].parts[0] for name in samples.names])
    split = Split(
        train=part == "train",
        query=np.isin(part, ["test", "query"]),
        gallery=np.isin(part, ["test", "gallery"]),
        tested="the test part" if "test" in parts else "the query part, looked for in the gallery",
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


LAYOUTS: dict[str, Callable[[Path], Samples]] = {
    "classes": lambda folder: samples_by_directory(find_archive(folder), str),
    "parts": read_parts,
}
