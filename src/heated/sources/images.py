"""Labelled images from archives of image files, whose classes are told by their names or a list."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from heated import archives
from heated.errors import InputError
from heated.samples import Content, Samples
from heated.splits import by_class

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


def samples_of(files: Sequence[Path], class_of: Callable[[str], str | None]) -> Samples:
    """The images of the archives, by name; `class_of` says the class of each, or None for what is
    no image of the set. Classes are numbered in the order of their names."""
    members = {file: archives.names(file) for file in files}
    classes = {name: told for each in members.values() for name in each if (told := class_of(name))}
    in_order = sorted(classes.items(), key=lambda pair: (pair[1], pair[0]))
    return listed(members, dict(in_order))


def listed(members: Mapping[Path, Sequence[str]], classes: Mapping[str, str]) -> Samples:
    """Of the archives' members, by archive, the images named in `classes` with the class of each,
    in that order; classes are numbered as they come up. InputError where none is named, or two
    classes differ in case alone."""
    class_names = tuple(dict.fromkeys(classes.values()))
    distinct(class_names)
    numbers = {name: number for number, name in enumerate(class_names)}
    places = {name: place for place, name in enumerate(classes)}

    def contents(skip: int) -> Iterator[tuple[int, Content]]:
        for file, names in members.items():
            here = places.keys() & names
            for name, content in archives.read(file, here, skip=skip):
                yield places[name], content
            skip = max(0, skip - len(here))

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
