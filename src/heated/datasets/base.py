"""Data sets as files to download and a reader, and labeled images in archives."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from heated.common import archives
from heated.common.errors import InputError
from heated.common.samples import Content, Samples
from heated.datasets.download import RemoteFile
from heated.datasets.splits import split_classes

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tgz", ".tar.gz")


@dataclass(frozen=True)
class Source:
    """A data set.

    `copies`: names under which users store the set unpacked or repacked, or absolute paths. The
    first one found replaces the files.
    """

    name: str
    files: Sequence[RemoteFile]  # to download
    reader: Callable[[Path], Samples]  # reads the folder with the files
    counts: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # images, classes per part
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
    found = sorted(path for path in folder.iterdir() if path.name.endswith(ARCHIVE_SUFFIXES))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise InputError(f"{folder}: got the archives {names}, expected one. Run download.")
    return found[0]


def samples_in_archives(
    members: Mapping[Path, Sequence[str]], classes: Mapping[str, str]
) -> Samples:
    """Return the images in `classes`, in its order, read from the archives.

    Args:
        members: File names in each archive.
        classes: Class of each image by its name. Classes are numbered as they appear.

    Raises:
        InputError: If there are no images, an image is in no archive, or the names of two classes
            differ only in case.
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
            for name, content in archives.read(path, positions.keys() & names):
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
