"""Anybody's images: a folder, zip or tar with a directory a class."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np

from heated import archives
from heated.errors import InputError
from heated.files import project_root
from heated.samples import Samples, Split
from heated.sources.images import directories, in_directories
from heated.sources.source import Source, archive

PARTS = ({"train", "test"}, {"train", "query", "gallery"})


def source(*, path: str, layout: str) -> Source:
    """The images at `path`, absolute or from the project's folder.

    layout: "classes", a directory a class, at any depth (what they all lie in is left out of
    their names); "parts", the same below `train` and `test`, or below `train`, `query` and
    `gallery`, which is then the set's own split.
    """
    return Source(files=[], read=LAYOUTS[layout], copies=[str(project_root() / path)])


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
    samples = in_directories(place, lambda directory: str(PurePosixPath(*directory.parts[1:])))
    told = np.array([below[name].parts[0] for name in samples.names])
    split = Split(
        train=told == "train",
        query=np.isin(told, ["test", "query"]),
        gallery=np.isin(told, ["test", "gallery"]),
        tested="the test part" if "test" in came else "the query part, looked for in the gallery",
    )
    return replace(samples, split=split)


LAYOUTS: dict[str, Callable[[Path], Samples]] = {"classes": classes, "parts": parts}
