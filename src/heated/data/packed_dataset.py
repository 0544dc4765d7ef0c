"""A packed data set as it is read: images.npy, uint8 (N, H, W, C), memory-mapped, and index.npz."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from heated.common.io import read_arrays, required, sha256
from heated.common.samples import Mask, Split


@dataclass(frozen=True)
class Packed:
    """A packed data set; `images` is a read-only memory map."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    split: Split

    def part(self, mask: Mask) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the numbers (n,) of a part's images and their classes, numbered from 0."""
        numbers = np.flatnonzero(mask)
        return numbers, np.unique(self.labels[numbers], return_inverse=True)[1]


def unpack(folder: Path) -> Packed:
    """Return what `pack` wrote; raises FileNotFoundError, which names the stage to run."""
    index = read_arrays(required(folder / "index.npz", "split"))
    images = np.load(required(folder / "images.npy", "split"), mmap_mode="r")
    split = Split(index["train"], index["query"], index["gallery"], str(index["tested"]))
    return Packed(images, index["labels"], tuple(index["class_names"].tolist()), split)


def digest(folder: Path) -> str:
    """Return one SHA-256 for a packed data set, made of its two files'."""
    return f"{sha256(folder / 'images.npy')[:32]}{sha256(folder / 'index.npz')[:32]}"
