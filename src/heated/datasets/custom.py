"""Anybody's images: a folder, zip or tar with a directory a class."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np

from heated.common import archives
from heated.common.errors import InputError
from heated.common.io import project_root
from heated.common.samples import SEEN, Samples, Split
from heated.datasets.base import Source, archive
from heated.datasets.image_folder import directories, in_directories, nested

NAMED = 3  # classes, where more are told of
PARTS = ({"train", "test"}, {"train", "query", "gallery"})


def source(*, path: str, layout: str) -> Source:
    """The images at `path`, absolute or from the project's folder; where nothing lies there, in a
    mirror, without any `..` at the path's start.

    layout: "classes", a directory a class, at any depth (what they all lie in is left out of
    their names); "parts", the same below `train` and `test`, or below `train`, `query` and
    `gallery`, which is then the set's own split.
    """
    here = project_root() / path
    copies = [here] if Path(path).is_absolute() else [here, inside(path)]
    return Source(files=[], read=LAYOUTS[layout], copies=[str(copy) for copy in copies])


def inside(path: str) -> Path:
    """A relative path as it lies in a mirror: below it.

    >>> inside("../zoo/images.zip").as_posix()
    'zoo/images.zip'
    """
    return Path(*(part for part in Path(os.path.normpath(path)).parts if part != os.pardir))


def classes(folder: Path) -> Samples:
    """Classes by directory; no split."""
    return in_directories(archive(folder), str)


def parts(folder: Path) -> Samples:
    """Classes by the directories below the parts; the parts are the split."""
    place = archive(folder)
    below = directories(archives.names(place))
    came = {directory.parts[0] for directory in below.values()}
    if came not in PARTS:
        raise InputError(
            f"layout parts: came the directories {', '.join(sorted(came))}; allowed: train and "
            "test, or train, query and gallery, each with a directory a class"
        )
    nested(below, "<part>/<class>/<image>")
    samples = in_directories(place, lambda directory: str(PurePosixPath(*directory.parts[1:])))
    told = np.array([below[name].parts[0] for name in samples.names])
    split = Split(
        train=told == "train",
        query=np.isin(told, ["test", "query"]),
        gallery=np.isin(told, ["test", "gallery"]),
        tested="the test part" if "test" in came else "the query part, looked for in the gallery",
    )
    return replace(samples, split=replace(split, tested=SEEN) if seen(samples, split) else split)


def seen(samples: Samples, split: Split) -> bool:
    """Whether the tested classes train as well; InputError where only some of them do."""
    tested = np.unique(samples.labels[split.query])
    both = np.intersect1d(tested, samples.labels[split.train])
    if 0 < len(both) < len(tested):
        some = ", ".join(samples.class_names[label] for label in both[:NAMED])
        raise InputError(
            f"layout parts: {len(both)} of {len(tested)} tested classes also train, such as "
            f"{some}; allowed: none of them, or all, which tests {SEEN}. Put the images of a class "
            "into one part, or those of every tested class into train, too"
        )
    return len(both) > 0


LAYOUTS: dict[str, Callable[[Path], Samples]] = {"classes": classes, "parts": parts}
