"""Labelled images as a data set's reader gives them, and their split into training and test."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
UNSEEN, SEEN = "test classes", "other images of the same classes"  # what is tested
Content = bytes | NDArray[np.uint8]  # an image file's bytes, or (H, W) or (H, W, 3) uint8


@dataclass(frozen=True)
class Split:
    """(N,) masks over samples. A sample is never compared with itself, so query and gallery may
    be the same. `tested`: what query and gallery are, in words for the report."""

    train: Mask
    query: Mask
    gallery: Mask
    tested: str = UNSEEN

    def masks(self) -> dict[str, Mask]:
        """The masks by name, as they stand in index.npz."""
        return {name: value for name, value in asdict(self).items() if name != "tested"}


@dataclass(frozen=True)
class Samples:
    """N labelled images of C classes.

    labels: (N,) int64, each in [0, C). names: what each image is called where it comes from.
    split: the data set's own, or None where it has none. contents(): (number in [0, N), content) of
    every image, in the order that costs least to read.
    """

    class_names: tuple[str, ...]
    labels: NDArray[np.int64]
    names: Sequence[str]
    split: Split | None
    contents: Callable[[], Iterator[tuple[int, Content]]]
