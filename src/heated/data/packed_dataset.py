"""Read a packed data set: images.npy, memory-mapped, and index.npz."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from heated.common.io import read_arrays, require_output, sha256
from heated.common.samples import Mask, Split


@dataclass(frozen=True)
class PackedDataset:
    """A packed data set."""

    images: NDArray[np.uint8]  # (N, H, W, C), a read-only memory map
    labels: NDArray[np.int64]  # (N,)
    class_names: tuple[str, ...]
    split: Split

    def indices_and_classes(self, mask: Mask) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the indices (n,) of a part's images and their classes, numbered from 0."""
        indices = np.flatnonzero(mask)
        return indices, np.unique(self.labels[indices], return_inverse=True)[1]


def load_packed(folder: Path) -> PackedDataset:
    """Load a packed data set; raise FileNotFoundError if the stage `split` has not run."""
    index = read_arrays(require_output(folder / "index.npz", "split"))
    images = np.load(require_output(folder / "images.npy", "split"), mmap_mode="r")
    split = Split(index["train"], index["query"], index["gallery"], str(index["tested"]))
    return PackedDataset(images, index["labels"], tuple(index["class_names"].tolist()), split)


def packed_sha256(folder: Path) -> str:
    """Return a SHA-256 of a packed data set: the first half of each of its two files'."""
    return f"{sha256(folder / 'images.npy')[:32]}{sha256(folder / 'index.npz')[:32]}"
