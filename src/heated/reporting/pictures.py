"""Images of a packed data set as they stand in the page: small, and part of its text."""

import io
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from heated.common.io import read_arrays, required
from heated.data.packed_dataset import Packed, unpack
from heated.reporting.gallery import Shown, gallery

SMALL = 64  # pixels a side, up to which an image is kept pixel by pixel
THUMBNAIL = 112
QUALITY = 70


@dataclass(frozen=True)
class Picture:
    """An image and its class; `right`: whether it is the query's class; `small`: to be enlarged
    pixel by pixel."""

    uri: str
    class_name: str
    right: bool
    small: bool


@dataclass(frozen=True)
class Example:
    """A query (its kind and MAP@R) with its nearest, nearest first."""

    kind: str
    score: float
    query: Picture
    nearest: list[Picture]


def examples(packed: Path, embeddings: Path, *, count: int, memory: int) -> list[Example]:
    """`count` queries of each kind of a data set, by a seed's embeddings of its test images;
    FileNotFoundError that names the stage which makes a missing file."""
    if count == 0:
        return []
    data, arrays = unpack(packed), read_arrays(required(embeddings, "embed"))
    numbers = np.flatnonzero(data.split.query | data.split.gallery)
    assert np.array_equal(data.labels[numbers], arrays["labels"])
    shown = gallery(arrays, count=count, memory=memory)
    return [example(data, numbers, each) for each in shown]


def example(data: Packed, numbers: NDArray[np.int64], shown: Shown) -> Example:
    """A query's pictures; numbers: of the image in each row of the embeddings."""
    pictures = [
        picture(data, int(numbers[row]), right)
        for row, right in zip([shown.query, *shown.nearest], [True, *shown.right], strict=True)
    ]
    return Example(shown.kind, shown.score, pictures[0], pictures[1:])


def picture(data: Packed, number: int, right: bool) -> Picture:
    """An image of the data set with its class."""
    image = data.images[number]
    name = data.class_names[data.labels[number]]
    return Picture(data_uri(image), name, right, max(image.shape[:2]) <= SMALL)


def data_uri(image: NDArray[np.uint8]) -> str:
    """An image (H, W, C), C being 1 or 3, as PNG where it is small, else a thumbnail as WebP."""
    drawn = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    file = io.BytesIO()
    kind: str
    options: dict[str, int]
    if max(drawn.size) <= SMALL:
        kind, options = "png", {"compress_level": 9}
    else:
        drawn.thumbnail((THUMBNAIL, THUMBNAIL))
        kind, options = "webp", {"quality": QUALITY}
    drawn.save(file, kind, **options)
    return f"data:image/{kind};base64,{b64encode(file.getvalue()).decode()}"


def by_kind(examples: Sequence[Example]) -> dict[str, list[Example]]:
    """The examples of each kind, in their order."""
    kinds = dict.fromkeys(each.kind for each in examples)
    return {kind: [each for each in examples if each.kind == kind] for kind in kinds}
