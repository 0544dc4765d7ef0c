"""Read a packed data set (images.npy, memory-mapped, and index.npz), and load its batches.

Images that fit are kept on the GPU. Otherwise they are read from the memory map, one batch ahead of
the training step.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from heated.common.io import read_arrays, require_output, sha256, wrap_damage
from heated.common.samples import Mask, Split
from heated.runtime.device import batches_to_device, image_budget


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


def load_packed(folder: Path, image_shape: Sequence[int] | None = None) -> PackedDataset:
    """Load a packed data set, with images of `image_shape` if it is given.

    Raises FileNotFoundError if the stage `split` has not run, and InputError if a file is damaged
    or of another shape or type.
    """
    index = read_arrays(require_output(folder / "index.npz", "split"))
    path = require_output(folder / "images.npy", "split")
    with wrap_damage(path):
        images = np.load(path, mmap_mode="r")
    with wrap_damage(folder / "index.npz"):
        split = Split(index["train"], index["query"], index["gallery"], str(index["tested"]))
        labels, class_names = index["labels"], index["class_names"].tolist()
        check_array("labels", labels, np.int64, [len(images)])
        for name, mask in split.masks().items():
            check_array(name, mask, np.bool_, [len(images)])
        if not set(labels.tolist()) <= set(range(len(class_names))):
            raise ValueError(f"got the classes {labels.min()} to {labels.max()}")
    with wrap_damage(path):
        check_array("images", images, np.uint8, [len(labels), *(image_shape or images.shape[1:])])
        if images.ndim != 4:
            raise ValueError(f"got images of shape {images.shape}, expected (N, H, W, C)")
    return PackedDataset(images, labels, tuple(class_names), split)


def check_array(name: str, array: NDArray[Any], dtype: type, shape: Sequence[int]) -> None:
    """Raise ValueError if an array has another type or shape."""
    if array.dtype != dtype or array.shape != tuple(shape):
        expected = f"{np.dtype(dtype)} of shape {tuple(shape)}"
        raise ValueError(f"{name}: got {array.dtype} of shape {array.shape}, expected {expected}")


def packed_sha256(folder: Path) -> str:
    """Return a SHA-256 of a packed data set: the first half of each of its two files'."""
    return f"{sha256(folder / 'images.npy')[:32]}{sha256(folder / 'index.npz')[:32]}"


@dataclass(frozen=True)
class InMemoryImages:
    """Images (N, H, W, C) uint8 on the device."""

    images: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def iter_batches(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield the images of each batch, (B,) int64 indices on the CPU."""
        for batch in batches_to_device(batches, self.images.device):
            yield self.images.index_select(0, batch)


@dataclass(frozen=True)
class MemmapImages:
    """The images at `indices` (N,) in a memory map or array, (M, H, W, C) uint8."""

    images: NDArray[np.uint8]
    indices: NDArray[np.int64]
    device: torch.device

    def __len__(self) -> int:
        return len(self.indices)

    def iter_batches(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield the images at each batch's positions in `indices`; read one batch ahead."""

        def read(batch: Tensor) -> Tensor:
            images = torch.from_numpy(self.images[self.indices[batch.numpy()]])
            return images.pin_memory() if self.device.type == "cuda" else images

        with ThreadPoolExecutor(max_workers=1) as reader:
            reads = (reader.submit(read, batch) for batch in batches)
            current = next(reads, None)
            while current is not None:
                following = next(reads, None)
                yield current.result().to(self.device, non_blocking=True)
                current = following


Images = InMemoryImages | MemmapImages


def device_images(
    images: NDArray[np.uint8], indices: NDArray[np.int64], device: torch.device
) -> Images:
    """Copy the images to a GPU if they take at most `image_budget`, else map them."""
    if device.type == "cuda" and len(indices) * images[:1].nbytes <= image_budget(device):
        return InMemoryImages(torch.from_numpy(images[indices]).to(device))
    return MemmapImages(images, indices, device)
