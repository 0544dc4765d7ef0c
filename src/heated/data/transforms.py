"""Augment batches of images and normalize their pixels, on the batch's device.

Random numbers are drawn on the CPU for the whole batch, so that they do not depend on the device
and the number of processes. Without an `rng`, an augmentation is its test-time counterpart.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from heated.common.errors import InputError
from heated.runtime.device import to_device


@dataclass(frozen=True)
class AugmentationRNG:
    """Random numbers for a slice of a batch; the generator advances as for all `count` images."""

    generator: Generator
    count: int
    part: slice

    def uniform(self, rows: int) -> Tensor:
        """Return (rows, images in the slice) values in [0, 1)."""
        return torch.rand(rows, self.count, generator=self.generator)[:, self.part]


MaybeRNG = AugmentationRNG | None  # None at test time
Steps = Sequence[tuple[str, dict[str, Any]]]


def affine(
    images: Tensor, rng: MaybeRNG, *, degrees: float, scale: float, shear: float, translate: float
) -> Tensor:
    """Rotate, scale, shear (degrees) and translate (share of a side) each image of (N, C, H, W).

    Each amount is uniform in [-limit, limit]; pixels outside the image are 0. At test time, return
    the images unchanged.
    """
    if rng is None:
        return images
    draws = rng.uniform(5) * 2 - 1
    if not len(images):
        return images
    angle, slant = draws[0] * math.radians(degrees), torch.tan(draws[1] * math.radians(shear))
    size = 1 + draws[2] * scale
    cos, sin = torch.cos(angle) / size, torch.sin(angle) / size
    right, down = 2 * translate * draws[3], 2 * translate * draws[4]
    theta = [cos, cos * slant - sin, right, sin, sin * slant + cos, down]
    maps = to_device(torch.stack(theta, dim=1), images.device)
    return warp(images, maps, images.shape[2:], "zeros")


def crop(images: Tensor, rng: MaybeRNG, *, size: int) -> Tensor:
    """Crop a random window of each image, (N, C, size, size); the center at test time.

    The offset is uniform in [0, room), as in the authors' code, which never takes the last one.
    """
    count, channels, height, width = images.shape
    room = min(height, width) - size
    if room < 0:
        raise InputError(f"crop: got size {size}, expected at most the images', {height} x {width}")
    if rng is None:
        top, left = (height - size) // 2, (width - size) // 2
        return images[:, :, top : top + size, left : left + size]
    offsets = torch.randint(max(room, 1), (2, rng.count), generator=rng.generator)[:, rng.part]
    if not count:
        return images[:, :, :size, :size]
    rows = torch.arange(count)[:, None] * height + offsets[0, :, None] + torch.arange(size)
    starts = to_device((rows * width + offsets[1, :, None]).flatten(), images.device)
    # whole pieces of rows: on a CPU 80 times faster than pixel by pixel
    pieces = images.permute(0, 2, 3, 1).reshape(-1).unfold(0, size * channels, channels)
    windows = pieces.index_select(0, starts).view(count, size, size, channels)
    return windows.permute(0, 3, 1, 2)


def resized_crop(
    images: Tensor, rng: MaybeRNG, *, size: int, min_scale: float, max_ratio: float
) -> Tensor:
    """Resize a random window of each image bilinearly to (N, C, size, size).

    Its share of the image's area is uniform in [min_scale, 1], its aspect ratio log-uniform in
    [1 / max_ratio, max_ratio] within the image, and its position uniform. At test time, crop the
    center.
    """
    if rng is None:
        return crop(images, None, size=size)
    draws = to_device(rng.uniform(4), images.device)
    if not len(images):
        return images[:, :, :size, :size]
    area = min_scale + (1 - min_scale) * draws[0]
    stretch = torch.exp((2 * draws[1] - 1) * math.log(max_ratio) / 2)
    width, height = (area.sqrt() * stretch).clamp(max=1), (area.sqrt() / stretch).clamp(max=1)
    left, top = (1 - width) * (2 * draws[2] - 1), (1 - height) * (2 * draws[3] - 1)
    zero = torch.zeros_like(width)
    theta = torch.stack([width, zero, left, zero, height, top], dim=1)
    return warp(images, theta, (size, size), "border")


def warp(images: Tensor, theta: Tensor, size: Sequence[int], padding: str) -> Tensor:
    """Sample (N, C, *size) bilinearly from images under affine maps `theta`, (N, 6)."""
    shape = [*images.shape[:2], *size]
    grid = F.affine_grid(theta.view(-1, 2, 3), shape, align_corners=False)
    return F.grid_sample(images.float(), grid, padding_mode=padding, align_corners=False)


def flip(images: Tensor, rng: MaybeRNG, *, p: float) -> Tensor:
    """Flip each of (N, C, H, W) horizontally with the probability; unchanged at test time."""
    if rng is None:
        return images
    flipped = rng.uniform(1)[0] < p
    indices = torch.arange(len(images)) + len(images) * flipped
    pixels = images.permute(0, 2, 3, 1)  # as in memory
    both = torch.cat([pixels, pixels.flip(2)])
    return both.index_select(0, to_device(indices, images.device)).permute(0, 3, 1, 2)


def preprocess(
    images: Tensor, rng: MaybeRNG, *, steps: Steps, mean: float | Tensor, std: float | Tensor
) -> Tensor:
    """Convert (N, H, W, C) uint8 to (N, C, H', W') float32: each step, then (x / 255 - mean) / std.

    `mean` and `std` are numbers or (C, 1, 1). Pixels stay bytes until a step blends them.
    """
    batch = images.permute(0, 3, 1, 2)
    for name, options in steps:
        batch = AUGMENTATIONS[name](batch, rng, **options)
    return batch.float().div_(255 * std).sub_(mean / std)


AUGMENTATIONS: dict[str, Callable[..., Tensor]] = {
    "affine": affine,
    "crop": crop,
    "resized_crop": resized_crop,
    "flip": flip,
}
