"""Data sets as files and a reader, images in archives, the user's own images and copies."""

import os
import shutil
import sys
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain, product
from pathlib import Path, PurePosixPath

import numpy as np

from heated.common import archives
from heated.common.errors import InputError
from heated.common.io import expand_home, project_path
from heated.common.samples import SEEN, Content, Samples, Split
from heated.datasets.download import RemoteFile
from heated.datasets.file_names import (
    TABLE_SUFFIXES,
    check_utf8,
    describe_left_out,
    is_image,
    list_files,
)
from heated.datasets.http import DownloadFailed, check_free_space
from heated.datasets.splits import split_classes

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tgz", ".tar.gz")
PARTS = {"train", "training", "val", "valid", "validation", "dev", "test", "testing", "eval"}
PARTS |= {"query", "gallery"}


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
    """Return the only zip or tar in a data set's folder, in which other files are tables."""
    paths = sorted(path for path in folder.iterdir() if path.suffix not in TABLE_SUFFIXES)
    if len(paths) != 1:
        names = ", ".join(path.name for path in paths) or "none"
        raise InputError(f"{folder}: got the archives {names}, expected one. Run download.")
    return archives.require_archive(paths[0])


def find_prefix(names: Iterable[str], path: str) -> str:
    """Return what precedes a set's path in an archive: the least deep match, else nothing."""
    found = [name for name in names if f"/{name}".endswith(f"/{path}")]
    return min(found, key=lambda name: name.count("/"), default=path).removesuffix(path)


def samples_in_archives(
    members: Mapping[Path, Sequence[str]], classes: Mapping[str, str]
) -> Samples:
    """Return the images in `classes`, which maps their names to classes, in its order.

    `members` are the file names in each archive. Classes are numbered as they appear.
    """
    class_names = tuple(dict.fromkeys(classes.values()))
    if not class_names:
        raise InputError(
            f"{', '.join(map(str, members))}: got no images, expected image files in one directory "
            f"per class. {describe_left_out(chain(*members.values()))}"
        )
    check_utf8(classes)
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

    labels = np.array([numbers[name] for name in classes.values()], dtype=np.int64)
    return Samples(class_names, labels, list(classes), None, contents)


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

    `path` is absolute, in the home directory (~), or relative to the project, else to the mirror,
    there without any `..`.
    Layout "classes" is one directory per class, at any depth. The directory that contains them all
    is not part of their names. "parts" is the same inside `train` and `test`, or inside `train`,
    `query` and `gallery`, which are then the split.
    """
    copies = [project_path(path)]
    if not expand_home(path).is_absolute():
        parts = Path(os.path.normpath(path)).parts
        copies.append(Path(*(part for part in parts if part != os.pardir)))
    return Source("folder", [], LAYOUTS[layout], copies=[str(copy) for copy in copies])


def samples_by_directory(archive: Path, class_name: Callable[[PurePosixPath], str]) -> Samples:
    """Return an archive's images, sorted by class, the `class_name` of the directory, and name."""
    names = archives.member_names(archive)
    directories = image_directories(names)
    pairs = sorted((class_name(directory), name) for name, directory in directories.items())
    samples = samples_in_archives({archive: names}, {name: label for label, name in pairs})
    return replace(samples, left_out=[name for name in names if name not in directories])


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


def read_classes(folder: Path) -> Samples:
    """Read the layout "classes"; raise InputError if parts of a data set are taken for classes."""
    samples = samples_by_directory(find_archive(folder), str)
    levels = zip(*(PurePosixPath(name).parts for name in samples.class_names), strict=False)
    for names in map(set, levels):
        if len(names) > 1 and {name.casefold() for name in names} <= PARTS:
            raise InputError(
                f"layout classes: the directories {', '.join(sorted(names))} are parts of a data "
                "set, expected classes. Use `layout: parts`, with train and test, or train, query "
                "and gallery, or name one part in `path`."
            )
    return samples


def read_parts(folder: Path) -> Samples:
    """Read the layout "parts", in which all test classes train, or none."""
    archive = find_archive(folder)
    directories = image_directories(archives.member_names(archive))
    parts = {directory.parts[0] for directory in directories.values()}
    if parts not in ({"train", "test"}, {"train", "query", "gallery"}):
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
    "classes": read_classes,
    "parts": read_parts,
}


def find_copy(source: Source, mirror: str | None, subfolder: str) -> Path | None:
    """Return the user's copy of the data set, None if its files are to be downloaded.

    A copy is the first of `source.copies` that exists, with or without an archive's suffix, at its
    absolute path or in the mirror's `subfolder` or the mirror. It is not used if the mirror has all
    the files of the set, or is a URL. A set without files needs a copy.
    """
    is_folder = mirror is not None and "://" not in mirror
    folders = [Path(str(mirror), subfolder), Path(str(mirror))] if is_folder else []
    names = [file.name for file in source.files]
    if names and any(all((folder / name).exists() for name in names) for folder in folders):
        return None
    candidates = [
        path
        for copy in map(Path, source.copies)
        for path in ([copy] if copy.is_absolute() else [folder / copy for folder in folders])
    ]
    packed = [name for name in names if name.endswith(ARCHIVE_SUFFIXES)]
    for place in map("".join, product(map(str, candidates), ("", *ARCHIVE_SUFFIXES))):
        # a folder with some of the set's archives is no copy: the others are downloaded
        if Path(place).exists() and not any(Path(place, name).exists() for name in packed):
            return Path(place)
    if not names:
        raise InputError(
            f"source.path: found nothing at {' or '.join(map(str, candidates))}, expected a folder,"
            " zip or tar with one directory per class"
        )
    return None


def store_copy(copy: Path, raw: Path) -> Path:
    """Store the copy as one archive in the folder `raw`; equal files give equal bytes.

    A folder's images and tables are stored; other files are counted on stderr.
    """
    try:
        stored, left_out = list_files(copy) if copy.is_dir() else ([copy], [])
        check_free_space(raw, sum(path.stat().st_size for path in stored))
        if not copy.is_dir():
            return Path(shutil.copyfile(archives.require_archive(copy), raw / copy.name))
        if left_out:
            names = (path.relative_to(copy).as_posix() for path in left_out)
            print(f"{copy}: {describe_left_out(names)}", file=sys.stderr)
        with zipfile.ZipFile(raw / f"{copy.name}.zip", "w", zipfile.ZIP_STORED) as archive:
            for path in stored:
                entry = zipfile.ZipInfo(path.relative_to(copy).as_posix())  # of 1980
                entry.external_attr = 0o644 << 16
                with path.open("rb") as source, archive.open(entry, "w", force_zip64=True) as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)
        return raw / f"{copy.name}.zip"
    except OSError as error:
        raise DownloadFailed(
            f"{raw.parent}: cannot copy {copy}: {error}.\n"
            "Nothing was stored. Solve the problem and run this again."
        ) from error
