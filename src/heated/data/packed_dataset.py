"""A packed data set as it is read: images.npy, uint8 (N, H, W, C), memory-mapped, and index.npz."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from heated.common.io import read_arrays, required, sha256
from heated.common.samples import Split


@dataclass(frozen=True)
class Packed:
    """A packed data set; `images` is a read-only memory map."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    split: Split


def unpack(folder: Path) -> Packed:
    """What `pack` wrote; FileNotFoundError that names the stage to run when it is not there."""
    index = read_arrays(required(folder / "index.npz", "split"))
    return Packed(
        images=np.load(required(folder / "images.npy", "split"), mmap_mode="r"),
        labels=index["labels"],
        class_names=tuple(index["class_names"].tolist()),
        split=Split(
            train=index["train"],
            query=index["query"],
            gallery=index["gallery"],
            tested=str(index["tested"]),
        ),
    )


def digest(folder: Path) -> str:
    """One SHA-256 for a packed data set: of its two files' own."""
    return f"{sha256(folder / 'images.npy')[:32]}{sha256(folder / 'index.npz')[:32]}"
