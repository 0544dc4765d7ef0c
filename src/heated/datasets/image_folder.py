"""Labelled images from archives of image files, whose classes are told by their names or a list."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np

from heated.common import archives
from heated.common.errors import InputError
from heated.common.samples import Content, Samples
from heated.datasets.splits import by_class

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


def in_directories(place: Path, class_of: Callable[[PurePosixPath], str]) -> Samples:
    """The images of an archive with a directory a class; `class_of` names the class by the
    directory. Classes are numbered in the order of their names."""
    names = archives.names(place)
    classes = {name: class_of(directory) for name, directory in directories(names).items()}
    return listed({place: names}, by_name(classes))


def by_name(classes: Mapping[str, str]) -> dict[str, str]:
    """Images with their classes, in the order of the classes' names and then of their own."""
    return dict(sorted(classes.items(), key=lambda pair: (pair[1], pair[0])))


def directories(names: Sequence[str]) -> dict[str, PurePosixPath]:
    """The directory of each image file, below the directory that all of them lie in; InputError
    where some lie right there."""
    images = {path: path.parent for path in map(PurePosixPath, names) if is_image(path)}
    above = os.path.commonpath(set(images.values())) if images else ""
    relative = {parent: parent.relative_to(above) for parent in set(images.values())}
    below = {str(path): relative[parent] for path, parent in images.items()}
    nested(below, "<class>/<image>")
    return below


def nested(below: Mapping[str, PurePosixPath], wanted: str) -> None:
    """InputError unless each image lies at least so many directories deep as is `wanted`."""
    depth = wanted.count("/")
    loose = next((name for name, directory in below.items() if len(directory.parts) < depth), None)
    if loose is not None:
        raise InputError(f"the image {loose} lies in no directory of a class; wanted: {wanted}")


def is_image(path: PurePosixPath) -> bool:
    """Whether a file's name is an image's, and not one of those that macOS adds to archives."""
    added = path.name.startswith("._") or path.parts[0] == "__MACOSX"
    return path.suffix.lower() in SUFFIXES and not added


def listed(members: Mapping[Path, Sequence[str]], classes: Mapping[str, str]) -> Samples:
    """Of the archives' members, by archive, the images named in `classes` with the class of each,
    in that order; classes are numbered as they come up. InputError where none is named, one is in
    no archive, or two classes differ in case alone."""
    class_names = tuple(dict.fromkeys(classes.values()))
    distinct(class_names)
    lacking = set(classes).difference(*members.values())
    if lacking:
        raise InputError(
            f"{', '.join(map(str, members))}: {len(lacking)} images that the set's list names are "
            f"not there, such as {min(lacking)}; take a whole copy"
        )
    numbers = {name: number for number, name in enumerate(class_names)}
    places = {name: place for place, name in enumerate(classes)}

    def contents() -> Iterator[tuple[int, Content]]:
        for file, names in members.items():
            for name, content in archives.read(file, places.keys() & names):
                yield places[name], content

    return Samples(
        class_names=class_names,
        labels=np.array([numbers[told] for told in classes.values()], dtype=np.int64),
        names=list(classes),
        split=None,
        contents=contents,
    )


def distinct(class_names: Sequence[str]) -> None:
    """InputError unless there are classes, whose names differ in more than case."""
    if not class_names:
        raise InputError("no images found; wanted are image files in a directory a class")
    known: dict[str, str] = {}
    for name in class_names:
        other = known.setdefault(name.casefold(), name)
        if other != name:
            raise InputError(
                f"the classes {other!r} and {name!r} differ in case alone, which is one class on "
                f"some systems; rename one, or put their images together"
            )


@contextmanager
def understood(place: Path, table: str) -> Iterator[None]:
    """Whatever goes wrong with what a table says becomes an InputError that names it and where it
    lies."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # parsers raise about every kind there is
        raise InputError(
            f"{place}: {table} is damaged ({type(error).__name__}: {error}); fetch it again"
        ) from error


def parted(samples: Samples, trains: Callable[[str], bool]) -> Samples:
    """The samples with a split of their own: the classes of which `trains` is true train."""
    train = np.array([trains(name) for name in samples.class_names])
    return replace(samples, split=by_class(samples, train))


def counted(samples: Samples, name: str, **expected: tuple[int, int]) -> Samples:
    """The samples as they came; InputError unless each part (train, query, gallery) of their split
    has so many images and classes."""
    assert samples.split is not None
    for part, (images, classes) in expected.items():
        labels = samples.labels[samples.split.masks()[part]]
        came = len(labels), len(np.unique(labels))
        if came != (images, classes):
            raise InputError(
                f"{name}, {part}: came {came[0]} images of {came[1]} classes; the data set has "
                f"{images} of {classes}. Take a whole copy, or use it as `source: {{name: folder}}`"
            )
    return samples
