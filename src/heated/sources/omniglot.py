"""Omniglot: 964 drawn characters of 30 alphabets to train on (background), 659 of 20 other
alphabets to test on (evaluation), 20 drawings each.

Source: B. Lake, R. Salakhutdinov, J. Tenenbaum, Science 350 (2015).
"""

from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from heated.downloading import RemoteFile
from heated.samples import Samples
from heated.sources.images import parted, samples_of
from heated.sources.source import Source

TRAIN, TEST = "images_background", "images_evaluation"
ADDRESS = "https://github.com/brendenlake/omniglot/raw/master/python/"


def reader(train: str, test: str, *, left_out: Sequence[str] = ()) -> Callable[[Path], Samples]:
    """A reader of two archives `<set>.zip` with images `<set>/<alphabet>/<character>/<n>.png`;
    test alphabets that are `left_out` are not read. A class is a set's character."""

    def read(folder: Path) -> Samples:
        """Ink is 0 and paper 255, as in the files: `packing.colour: inverted` turns them."""
        files = [folder / f"{part}.zip" for part in (train, test)]
        samples = samples_of(files, lambda name: drawn(PurePosixPath(name), test, left_out))
        return parted(samples, lambda name: name.startswith(f"{train}/"))

    return read


def drawn(path: PurePosixPath, test: str, left_out: Sequence[str]) -> str | None:
    """The class `set/alphabet/character` of an image, or None for what is left out."""
    if path.suffix != ".png" or (path.parts[0] == test and path.parts[1] in left_out):
        return None
    return str(path.parent)


SOURCE = Source(
    files=(
        RemoteFile(
            f"{TRAIN}.zip",
            "ad41ab679c8b5d90b271ef46be6987cc81211774a695c29dcc5367b2b26ee640",
            (f"{ADDRESS}{TRAIN}.zip",),
        ),
        RemoteFile(
            f"{TEST}.zip",
            "1f61a8f3366785b057fc117d9228e78a16e3d976c8953b2a10fcc74cf0609cee",
            (f"{ADDRESS}{TEST}.zip",),
        ),
    ),
    read=reader(TRAIN, TEST),
)
