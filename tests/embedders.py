"""Small models with packed data sets and embeddings, as the stages write them."""

from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import layouts
import numpy as np
import torch
from PIL import Image
from recipes import AFFINE, SETTINGS
from sklearn.datasets import load_digits

from heated.common.geometry import l2_normalize
from heated.common.samples import Content, Samples
from heated.data.packed_dataset import MemmapImages, load_packed
from heated.datasets.splits import split
from heated.models.embedding_model import Architecture, ModelWithLoss, embed, load_model, save_model
from heated.preprocessing.packing import pack

KINDS: dict[str, dict[str, Any]] = {
    "digits": {
        "packing": {"size": 8, "fit": "squash", "color_mode": "gray", "filter": "bilinear"},
        "augment": [AFFINE],
        "pixels": (0.5, 0.5),
    },
    "drawings": {
        "packing": {"size": 28, "fit": "squash", "color_mode": "inverted", "filter": "bilinear"},
        "augment": [],
        "pixels": (0.5, 0.5),
    },
    "photographs": {
        "packing": {"size": 20, "fit": "crop", "color_mode": "rgb", "filter": "lanczos"},
        "augment": [{"name": "crop", "size": 17}, {"name": "flip", "p": 0.5}],
        "pixels": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    },
}


def make_samples(kind: str) -> Samples:
    """Make images of a kind; the second half of the classes is the test set.

    Digits are 300 arrays of 8 x 8, drawings files of dark ink on light paper, photographs files of
    several sizes, in gray, color and with transparency.
    """
    contents: list[Content]
    if kind == "digits":
        digits = load_digits()
        contents = list(np.round(digits.images[:300] * (255 / 16)).astype(np.uint8))
        labels = digits.target[:300].astype(np.int64)
    else:
        photographs = [("RGB", "JPEG"), ("L", "JPEG"), ("RGBA", "PNG"), ("CMYK", "JPEG")]
        modes = {"drawings": [("1", "PNG")] * 4, "photographs": [*photographs, ("P", "PNG")]}
        files = [(seed, *each) for seed in range(6) for each in modes[kind]]
        contents = [
            layouts.random_image(number if kind == "drawings" else seed, mode=mode, form=form)
            for number, (seed, mode, form) in enumerate(files)
        ]
        labels = np.arange(len(contents)) % 4
    samples = Samples(
        class_names=tuple(str(label) for label in range(labels.max() + 1)),
        labels=labels,
        names=[str(number) for number in range(len(labels))],
        split=None,
        contents=lambda: enumerate(contents),
    )
    return replace(samples, split=split(samples, "halves"))


@dataclass(frozen=True)
class Case:
    """A model's file, its packing, test images as files or arrays, and their unit embeddings."""

    weights: Path
    packing: dict[str, Any]
    packed: Path
    contents: list[Content]
    embeddings: np.ndarray
    labels: np.ndarray


def case(kind: str, folder: Path) -> Case:
    """Write a packed data set and a model of a kind into a folder."""
    samples, options = make_samples(kind), KINDS[kind]
    assert samples.split is not None
    packed, weights = folder / "packed", folder / "models" / "seed-0.safetensors"
    pack(samples, samples.split, packed, **options["packing"], max_damaged_images=0, workers=1)
    data, (mean, std) = load_packed(packed), options["pixels"]
    torch.manual_seed(0)
    changes = {"augment": options["augment"], "pixel_mean": mean, "pixel_std": std}
    changes |= {"embedding_dim": 16, "backbone": {"name": "conv4", "width": 8}}
    shape = {"image_shape": data.images.shape[1:], "num_classes": 3}
    model = ModelWithLoss(Architecture.of(SETTINGS | changes, **shape))
    images = torch.from_numpy(np.array(data.images))
    model.train()
    with torch.no_grad():
        for _ in range(60):  # fit batch norm's statistics, so that embeddings point everywhere
            model(images)
    save_model(weights, model)
    indices, cpu = np.flatnonzero(data.split.query | data.split.gallery), torch.device("cpu")
    raw = embed(load_model(weights, cpu), MemmapImages(data.images, indices, cpu))
    embeddings = l2_normalize(raw).float().numpy()
    contents = dict(samples.contents())
    return Case(
        weights,
        options["packing"],
        packed,
        [contents[index] for index in indices],
        embeddings,
        data.labels[indices],
    )


def as_file(image: Content) -> bytes:
    """Return the bytes of an image file, PNG for an array."""
    if isinstance(image, bytes):
        return image
    file = BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()
