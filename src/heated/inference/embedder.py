"""Embed images of any size and format: a model with its packing, independent of params.yaml.

Both are saved in a folder: the model as `model.safetensors`, its packing as `packing.json`.
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
import PIL.Image
import torch
from numpy.typing import NDArray

from heated.common.errors import InputError
from heated.common.geometry import l2_normalize
from heated.common.io import atomic_write, read_json, sha256, with_current_names, write_json
from heated.common.samples import Content
from heated.data.packed_dataset import MemmapImages
from heated.models.embedding_model import EmbeddingModel, check_image_shape, embed, load_model
from heated.preprocessing.decoding import decode, to_8_bit

WEIGHTS, PACKING = "model.safetensors", "packing.json"
OPTIONS = ("size", "fit", "color_mode", "filter")  # of packing: those that change pixels
Image = bytes | str | NDArray[Any] | Sequence[Any] | PIL.Image.Image  # see `to_content`


@dataclass(frozen=True)
class Embedder:
    """A model and its packing."""

    model: EmbeddingModel
    packing: Mapping[str, Any]  # OPTIONS, keyword arguments of `decode`
    digest: str  # SHA-256 of both, in hexadecimal

    def predict(self, images: Iterable[Image]) -> NDArray[np.float32]:
        """Compute embeddings (N, D) of unit length, of images as `to_content` takes them.

        Images of one size may be one array, (N, H, W) or (N, H, W, 3). Raises InputError with the
        index of an invalid image.
        """
        if isinstance(images, bytes | str | PIL.Image.Image):
            raise InputError("images: got one image, expected a sequence of images. Pass [image].")
        shape: tuple[int, ...] = getattr(images, "shape", ())
        if len(shape) == 2 or (len(shape) == 3 and shape[2] == 3):
            advice = "Pass a single image as image[None], and of a table the column of images."
            problem = f"got an array of shape {shape}, expected a sequence of images."
            raise InputError(f"images: {problem} {advice}")
        return self.embed_packed(self.pack(image, f"image {i}") for i, image in enumerate(images))

    def pack(self, image: Image, name: str) -> NDArray[np.uint8]:
        """Decode an image to the model's size and color. An InputError starts with `name`."""
        try:
            return decode(to_content(image), **self.packing)
        except InputError as error:
            raise InputError(f"{name}: {error}") from error

    def embed_packed(self, images: Iterable[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Compute embeddings (N, D) of unit length, of N images from `pack`."""
        packed = list(images)
        if not packed:
            return np.empty((0, self.model.architecture.embedding_dim), dtype=np.float32)
        batches = MemmapImages(np.stack(packed), np.arange(len(packed)), self.model.device)
        raw = embed(self.model, batches, quiet=True)
        return l2_normalize(raw).float().cpu().numpy()


def to_content(image: Image) -> Content:
    """Convert an image file's bytes, the same in base64, or pixels to what `decode` takes.

    Base64 may be a data URI. Pixels are (H, W), (H, W, 1) or (H, W, 3), an array or lists of
    integers from 0 to 255, or an image of Pillow in any mode.
    """
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if isinstance(image, PIL.Image.Image):
        mode = image.mode
        try:
            image = np.asarray(to_8_bit(image))
        except ValueError as error:
            raise InputError(f"got a Pillow image of mode {mode} ({error})") from error
    if isinstance(image, str):
        kind, comma, text = image.partition(",")
        if kind.startswith("data:") and not kind.endswith(";base64"):
            raise InputError("got a data: URI without base64, expected data:image/png;base64,...")
        try:
            return b64decode("".join((text if comma else image).split()), validate=True)
        except (binascii.Error, ValueError) as error:
            raise InputError(f"got text that is not base64 ({error})") from error
    try:
        pixels = np.asarray(image)
        pixels = np.asarray(pixels.tolist()) if pixels.dtype == object else pixels
    except ValueError as error:
        raise InputError("got lists of different lengths, expected pixels (H, W, 3)") from error
    pixels = pixels[..., 0] if pixels.shape[2:] == (1,) else pixels
    is_image = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)
    if not (is_image and pixels.size and pixels.dtype.kind in "iu"):
        raise InputError(
            f"got {pixels.dtype} of shape {pixels.shape}, expected an image file's bytes, the same "
            "in base64, or pixels (H, W) or (H, W, 3), integers from 0 to 255"
        )
    if pixels.min() < 0 or pixels.max() > 255:
        raise InputError(f"got pixels from {pixels.min()} to {pixels.max()}, expected 0 to 255")
    return pixels.astype(np.uint8, copy=False)


def make_embedder(weights: Path, packing: Mapping[str, Any]) -> Embedder:
    """Load a model, on a GPU if available; raises InputError if the packing does not fit it."""
    options = {name: packing[name] for name in OPTIONS}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load_model(weights, device)
    packed = decode(np.zeros((1, 1, 3), dtype=np.uint8), **options).shape
    check_image_shape(weights, model, packed)
    return Embedder(model, options, embedder_digest(weights, packing))


def embedder_digest(weights: Path, packing: Mapping[str, Any]) -> str:
    """Compute `Embedder.digest` without loading the model."""
    options = {name: packing[name] for name in OPTIONS}
    text = f"{sha256(weights)} {json.dumps(options, sort_keys=True)}"
    return hashlib.sha256(text.encode()).hexdigest()


def save_embedder(folder: Path, weights: Path, packing: Mapping[str, Any]) -> None:
    """Write a folder for `load_embedder`. Raises InputError as `make_embedder`."""
    embedder = make_embedder(weights, packing)
    with atomic_write(folder) as temporary:
        temporary.mkdir()
        shutil.copyfile(weights, temporary / WEIGHTS)
        write_json(temporary / PACKING, embedder.packing)


def load_embedder(folder: Path) -> Embedder:
    """Load a folder of `save_embedder`. Raises InputError if a file is missing."""
    missing = [name for name in (WEIGHTS, PACKING) if not (folder / name).is_file()]
    if missing:
        raise InputError(f"{folder} is not a model of heated: {', '.join(missing)} is missing")
    return make_embedder(folder / WEIGHTS, with_current_names(read_json(folder / PACKING)))


def _load_pyfunc(path: str) -> Embedder:
    """Load a folder; MLflow calls this function by its name."""
    return load_embedder(Path(path))
