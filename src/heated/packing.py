"""A data set as two files: images.npy, uint8 (N, H, W, C), to be memory-mapped, and index.npz
(labels (N,) int64, class_names (C,) str, and the masks of the split, (N,) bool)."""

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from heated.files import read_arrays, required, sha256, whole, write_arrays
from heated.samples import Content, Mask, Samples, Split


@dataclass(frozen=True)
class Packed:
    """A packed data set; `images` is a read-only memory map."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    split: Split

    def part(self, mask: Mask) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Images and labels of the masked samples, in their order."""
        return self.images[mask], self.labels[mask]


def pack(samples: Samples, split: Split, folder: Path, *, size: int) -> None:
    """`folder` with every image squashed to size x size, written whole or not at all."""
    with whole(folder) as temporary:
        temporary.mkdir()
        write_images(samples, temporary / "images.npy", size=size)
        names = np.array(samples.class_names)
        write_arrays(
            temporary / "index.npz", labels=samples.labels, class_names=names, **split.masks()
        )


def write_images(samples: Samples, path: Path, *, size: int) -> None:
    """All images as one uint8 (N, size, size, channels) array; channels as in the first image."""
    total = len(samples.labels)
    _, first = next(samples.contents(0))
    channels = squash(pixels(first), size).shape[2]
    images = open_memmap(path, "w+", np.dtype(np.uint8), (total, size, size, channels))
    contents = samples.contents(0)
    for i, content in tqdm(contents, "packing", total, unit="image", disable=None):
        images[i] = squash(pixels(content), size)
    images.flush()


def pixels(content: Content) -> NDArray[np.uint8]:
    """(H, W) or (H, W, 3) of an image file's bytes, or the array as it came."""
    if isinstance(content, bytes):
        return 255 - np.asarray(Image.open(BytesIO(content)).convert("L"))
    return content


def squash(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """(size, size, channels) with antialiasing; the aspect is not kept, as in the authors' code."""
    if image.shape[:2] != (size, size):
        resized = Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR)
        image = np.asarray(resized)
    return image if image.ndim == 3 else image[:, :, None]


def unpack(folder: Path) -> Packed:
    """What `pack` wrote; FileNotFoundError that names the stage to run when it is not there."""
    index = read_arrays(required(folder / "index.npz", "split"))
    return Packed(
        images=np.load(required(folder / "images.npy", "split"), mmap_mode="r"),
        labels=index["labels"],
        class_names=tuple(index["class_names"].tolist()),
        split=Split(train=index["train"], query=index["query"], gallery=index["gallery"]),
    )


def digest(folder: Path) -> str:
    """One SHA-256 for a packed data set: of its two files' own."""
    return f"{sha256(folder / 'images.npy')[:32]}{sha256(folder / 'index.npz')[:32]}"
