"""Small models with packed data sets and embeddings, as the stages write them."""

from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import layouts
import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits

from heated.common.geometry import l2_normalize
from heated.common.samples import Content, Samples
from heated.data.batches import Mapped
from heated.data.packed_dataset import unpack
from heated.datasets.splits import split
from heated.models import embedding_model
from heated.models.embedding import embed
from heated.models.embedding_model import Architecture, Model
from heated.preprocessing.packing import pack

KINDS: dict[str, dict[str, Any]] = {
    "digits": {
        "packing": {"size": 8, "fit": "squash", "colour": "grey", "filter": "bilinear"},
        "augment": [{"name": "affine", "degrees": 10, "scale": 0.1, "shear": 5, "shift": 0.1}],
        "pixels": (0.5, 0.5),
    },
    "drawings": {
        "packing": {"size": 28, "fit": "squash", "colour": "inverted", "filter": "bilinear"},
        "augment": [],
        "pixels": (0.5, 0.5),
    },
    "photographs": {
        "packing": {"size": 20, "fit": "crop", "colour": "rgb", "filter": "lanczos"},
        "augment": [{"name": "crop", "size": 17}, {"name": "flip", "probability": 0.5}],
        "pixels": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    },
}


def digits() -> tuple[list[Content], np.ndarray]:
    """300 digits of 8 x 8."""
    given = load_digits()
    images = np.round(given.images[:300] * (255 / 16)).astype(np.uint8)
    return list(images), given.target[:300].astype(np.int64)


def drawings() -> tuple[list[Content], np.ndarray]:
    """Files of dark ink on light paper."""
    files = [layouts.picture(seed, mode="1", form="PNG") for seed in range(24)]
    return list(files), np.arange(len(files)) % 4


def photographs() -> tuple[list[Content], np.ndarray]:
    """Files of all sizes, grey, coloured and transparent."""
    kinds = [("RGB", "JPEG"), ("L", "JPEG"), ("RGBA", "PNG"), ("CMYK", "JPEG"), ("P", "PNG")]
    files = [layouts.picture(seed, mode=m, form=f) for seed in range(6) for m, f in kinds]
    return list(files), np.arange(len(files)) % 4


def samples(contents: list[Content], labels: np.ndarray) -> Samples:
    """The images with as many classes as there are labels; the second half of those is tested."""
    given = Samples(
        class_names=tuple(str(label) for label in range(labels.max() + 1)),
        labels=labels,
        names=[str(number) for number in range(len(labels))],
        split=None,
        contents=lambda: enumerate(contents),
    )
    return replace(given, split=split(given, "halves"))


CONTENTS = {"digits": digits, "drawings": drawings, "photographs": photographs}


@dataclass(frozen=True)
class Case:
    """A model's file, its packing, images as they came, and what the stage `embed` made of those
    that are tested, of length 1."""

    weights: Path
    packing: dict[str, Any]
    packed: Path
    contents: list[Content]
    embeddings: np.ndarray
    labels: np.ndarray


def settle(model: Model, images: torch.Tensor) -> None:
    """Batch norm's statistics become those of the images, so that embeddings point everywhere."""
    model.train()
    with torch.no_grad():
        for _ in range(60):
            model(images)


def case(kind: str, folder: Path, given: Samples | None = None) -> Case:
    """The case of this kind, written below the folder; of the given images, or of its own."""
    given = given or samples(*CONTENTS[kind]())
    assert given.split is not None
    options, parted = KINDS[kind], given.split
    packing = options["packing"]
    packed, weights = folder / "packed", folder / "models" / "seed-0.safetensors"
    pack(given, parted, packed, **packing, damaged=0, workers=1)
    torch.manual_seed(0)
    mean, std = options["pixels"]
    model = Model(
        Architecture(
            image_shape=np.load(packed / "images.npy", mmap_mode="r").shape[1:],
            num_classes=3,
            embedding_dim=16,
            backbone={"name": "conv4", "width": 8},
            normalise={"name": "batch", "momentum": 0.05, "eps": 1e-3},
            bias="outside",
            label_smoothing=0.0,
            augment=options["augment"],
            pixel_mean=mean,
            pixel_std=std,
        )
    )
    settle(model, torch.from_numpy(np.load(packed / "images.npy")[:: len(given.labels) // 500 + 1]))
    embedding_model.save(weights, model)
    device, data = torch.device("cpu"), unpack(packed)
    tested = np.flatnonzero(data.split.query | data.split.gallery)
    loaded = embedding_model.load(weights, device)
    values = embed(loaded, Mapped(data.images, tested, device)).numpy()
    found = {"embeddings": values, "labels": data.labels[tested]}
    numbers, contents = np.flatnonzero(parted.query | parted.gallery), dict(given.contents())
    return Case(
        weights,
        packing,
        packed,
        [contents[number] for number in numbers],
        l2_normalize(torch.from_numpy(found["embeddings"])).float().numpy(),
        found["labels"],
    )


def as_file(image: Content) -> bytes:
    """An image's bytes, as they came or as PNG."""
    if isinstance(image, bytes):
        return image
    file = BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()
