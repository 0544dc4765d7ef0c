"""Batches of packed images on the device: from images held there, or read from a memory map, one
batch ahead of the one that is trained on."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Held:
    """Images (N, H, W, C) uint8 on the device."""

    images: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, pieces: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield the images of each piece, (B,) int64 numbers of images on the CPU."""
        for piece in pieces:
            yield self.images.index_select(0, piece.to(self.images.device))


@dataclass(frozen=True)
class Mapped:
    """Images `numbers` (N,) of (M, H, W, C) uint8 in memory or a memory map."""

    images: NDArray[np.uint8]
    numbers: NDArray[np.int64]
    device: torch.device

    def __len__(self) -> int:
        return len(self.numbers)

    def batches(self, pieces: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield the images of each piece, (B,) int64 numbers among N on the CPU, read ahead."""
        with ThreadPoolExecutor(max_workers=1) as reader:
            reads = (reader.submit(self.read, piece) for piece in pieces)
            waiting = next(reads, None)
            while waiting is not None:
                following = next(reads, None)
                yield waiting.result().to(self.device, non_blocking=True)
                waiting = following

    def read(self, piece: Tensor) -> Tensor:
        """Return a piece's images on the CPU; in pinned memory for a GPU."""
        images = torch.from_numpy(self.images[self.numbers[piece.numpy()]])
        return images.pin_memory() if self.device.type == "cuda" else images


def feed(
    images: NDArray[np.uint8], numbers: NDArray[np.int64], device: torch.device
) -> Held | Mapped:
    """Hold the numbered images on a GPU if they take at most half of its free memory; otherwise
    read them from where they are."""
    if device.type == "cuda":
        size = len(numbers) * images[:1].nbytes
        if size <= torch.cuda.mem_get_info(device)[0] / 2:
            return Held(torch.from_numpy(images[numbers]).to(device))
    return Mapped(images, numbers, device)
