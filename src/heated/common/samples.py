"""Labeled images of a data set, and their split into training and test images."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
UNSEEN, SEEN = "test classes", "other images of the same classes"  # values of Split.tested
Content = bytes | NDArray[np.uint8]  # an image file's bytes, or (H, W) or (H, W, 3) uint8


@dataclass(frozen=True)
class Split:
    """(N,) masks over samples.

    Query and gallery may be the same, as a sample is never compared with itself.

    Attributes:
        tested: Describes query and gallery in the report.
    """

    train: Mask
    query: Mask
    gallery: Mask
    tested: str = UNSEEN

    def masks(self) -> dict[str, Mask]:
        """Return the masks by name, as in index.npz."""
        return {"train": self.train, "query": self.query, "gallery": self.gallery}


@dataclass(frozen=True)
class Samples:
    """N labeled images of C classes.

    Attributes:
        class_names: C names.
        labels: (N,) int64 in [0, C).
        names: N names of the images in their source.
        split: The source's own split, or None.
        contents: Yields (index in [0, N), content) of every image, in the fastest order to read.
        left_out: Names of other files, which are not read.
    """

    class_names: tuple[str, ...]
    labels: NDArray[np.int64]
    names: Sequence[str]
    split: Split | None
    contents: Callable[[], Iterator[tuple[int, Content]]]
    left_out: Sequence[str] = ()
