"""Labelled images as a data set's reader gives them, and their split into training and test."""

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Samples:
    """N labelled images of C classes.

    labels: (N,) int64, each in [0, C). train_classes: (C,) bool, the data set's own split, or
    None where it has none. image(i): (H, W) or (H, W, 3) uint8, read when it is asked for.
    """

    class_names: tuple[str, ...]
    labels: NDArray[np.int64]
    train_classes: Mask | None
    image: Callable[[int], NDArray[np.uint8]]


@dataclass(frozen=True)
class Split:
    """(N,) masks over samples. A sample is never compared with itself, so query and gallery may
    be the same."""

    train: Mask
    query: Mask
    gallery: Mask

    def masks(self) -> dict[str, Mask]:
        """The masks by name, as they stand in index.npz."""
        return asdict(self)
