"""Images as people have them, of any size, to embeddings of unit length: a model with how its
images were packed, so that it is used without params.yaml.

A folder holds both: `model.safetensors`, as `models.save` wrote it, and `packing.json`.
"""

import binascii
import hashlib
import json
import shutil
from base64 import b64decode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from heated.common.errors import InputError
from heated.common.io import read_json, sha256, whole, write_json
from heated.common.samples import Content
from heated.data.batches import Mapped
from heated.models import embedding, embedding_model
from heated.models.embedding_model import EmbeddingModel
from heated.preprocessing.decoding import decode

WEIGHTS, PACKING = "model.safetensors", "packing.json"
OPTIONS = ("size", "fit", "colour", "filter")  # of packing: what decides the pixels
Image = bytes | str | NDArray[Any] | Sequence[Any]  # see `content`


@dataclass(frozen=True)
class Embedder:
    """A model and its packing: OPTIONS, as keyword arguments of `decode`. digest: 64 hexadecimal
    digits of both."""

    model: EmbeddingModel
    packing: Mapping[str, Any]
    digest: str

    def predict(self, images: Iterable[Image]) -> NDArray[np.float32]:
        """(N, D) of length 1, of N images of any sizes, each one as `content` takes it.

        Images of one size may come as one array, (N, H, W) or (N, H, W, 3) uint8. InputError that
        names the first image that is none.
        """
        came: tuple[int, ...] = getattr(images, "shape", ())
        if len(came) == 2 or (len(came) == 3 and came[2] == 3):
            raise InputError(
                f"came {came}; allowed: images, one after the other; a single one is image[None], "
                "and of a table it is the column of images"
            )
        return self.embeddings(
            self.square(image, f"image {number}") for number, image in enumerate(images)
        )

    def square(self, image: Image, name: str) -> NDArray[np.uint8]:
        """An image as the model was trained on; InputError that names it where it is none."""
        try:
            return decode(content(image), **self.packing)
        except InputError as error:
            raise InputError(f"{name}: {error}") from error

    def embeddings(self, squares: Iterable[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """(N, D) of length 1, of N images packed as the model's."""
        packed = list(squares)
        if not packed:
            return np.empty((0, self.model.architecture.embedding_dim), dtype=np.float32)
        device = self.model.device
        images = Mapped(np.stack(packed), np.arange(len(packed)), device)
        raw = embedding.embed(self.model, images, quiet=True)
        return F.normalize(raw.double(), dim=1).float().cpu().numpy()


def content(image: Image) -> Content:
    """What `decode` takes, from an image file's bytes, the same in base64, or pixels (H, W),
    (H, W, 1) or (H, W, 3), whole numbers from 0 to 255, as an array or as lists; InputError for all
    else."""
    if isinstance(image, bytes):
        return image
    if isinstance(image, str):
        try:
            return b64decode("".join(image.split()), validate=True)
        except (binascii.Error, ValueError) as error:
            raise InputError(f"came text that is not base64 ({error})") from error
    try:
        pixels = np.asarray(image)
        pixels = np.asarray(pixels.tolist()) if pixels.dtype == object else pixels
    except ValueError as error:
        raise InputError("came lists of different lengths; allowed: pixels (H, W, 3)") from error
    pixels = pixels[..., 0] if pixels.shape[2:] == (1,) else pixels
    shaped = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)
    if not (shaped and pixels.size and pixels.dtype.kind in "iu"):
        raise InputError(
            f"came {pixels.dtype} of shape {pixels.shape}; allowed: an image file's bytes, the "
            "same in base64, or pixels (H, W) or (H, W, 3), whole numbers from 0 to 255"
        )
    if pixels.min() < 0 or pixels.max() > 255:
        raise InputError(f"came pixels from {pixels.min()} to {pixels.max()}; allowed: 0 to 255")
    return pixels.astype(np.uint8, copy=False)


def embedder(weights: Path, packing: Mapping[str, Any]) -> Embedder:
    """A trained model's file with its packing, on the GPU where there is one; InputError where the
    packing is not the one it was trained on."""
    options = {name: packing[name] for name in OPTIONS}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = embedding_model.load(weights, device)
    blank = np.zeros((1, 1, 3), dtype=np.uint8)
    packed, trained = decode(blank, **options).shape, model.architecture.image_shape
    if packed != trained:
        raise InputError(
            f"{weights} was trained on images of {trained}, and packing makes {packed}; give the "
            "packing of its data set"
        )
    return Embedder(model, options, digest(weights, packing))


def digest(weights: Path, packing: Mapping[str, Any]) -> str:
    """The same for equal models of equal packing."""
    options = {name: packing[name] for name in OPTIONS}
    told = f"{sha256(weights)} {json.dumps(options, sort_keys=True)}"
    return hashlib.sha256(told.encode()).hexdigest()


def write(folder: Path, weights: Path, packing: Mapping[str, Any]) -> None:
    """The folder that `read` reads; InputError as of `embedder`."""
    checked = embedder(weights, packing)
    with whole(folder) as temporary:
        temporary.mkdir()
        shutil.copyfile(weights, temporary / WEIGHTS)
        write_json(temporary / PACKING, checked.packing)


def read(folder: Path) -> Embedder:
    """What `write` wrote; InputError where it is not there."""
    missing = [name for name in (WEIGHTS, PACKING) if not (folder / name).is_file()]
    if missing:
        raise InputError(f"{folder} is no model of heated: {', '.join(missing)} is not in it")
    return embedder(folder / WEIGHTS, read_json(folder / PACKING))


def _load_pyfunc(path: str) -> Embedder:
    """`read` under the name by which MLflow looks for it."""
    return read(Path(path))
