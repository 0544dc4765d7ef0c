"""A trained model as MLflow has it: a `pyfunc`, from images of any size to unit embeddings.

No pickle: it is the folder that `serving` reads. This package's code lies beside it, as no index of
packages has it; what else it needs is required in the versions that are installed here.
"""

from base64 import b64encode
from collections.abc import Mapping
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

import heated
from heated.common.errors import InputError
from heated.common.io import whole
from heated.inference import embedder
from heated.tracking import shown
from heated.tracking.store import opened_for_models, reason

DATA = "data/model"  # in what MLflow keeps: the folder for `serving`
REQUIRED = ("mlflow", "numpy", "pillow", "safetensors", "torch", "torchvision", "tqdm")


def described(weights: Path, packing: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of MLflow's `pyfunc.save_model` and `log_model`, but for the data."""
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    dim = embedder.embedder(weights, packing).model.architecture.embedding_dim
    images = TensorSpec(np.dtype(object), (-1,))
    embeddings = TensorSpec(np.dtype(np.float32), (-1, dim))
    signature = ModelSignature(Schema([images]), Schema([embeddings]))
    # MLflow has no kind for images of several sizes: its own check would refuse a list of arrays.
    # Marked like this, it leaves the check to `predict`.
    signature._is_signature_from_type_hint = True
    return {
        "loader_module": embedder.__name__,
        "code_paths": [str(Path(heated.__file__).parent)],
        "signature": signature,
        "input_example": np.array([example(packing["size"])], dtype=object),
        "pip_requirements": [f"{name}=={released(name)}" for name in REQUIRED],
    }


def example(size: int) -> str:
    """A grey square as a PNG file in base64."""
    file = BytesIO()
    Image.new("L", (size, size), 128).save(file, "png")
    return b64encode(file.getvalue()).decode()


def released(name: str) -> str:
    """The installed version, without the kind of build: 2.11.0+cpu is 2.11.0."""
    return version(name).partition("+")[0]


def save(path: Path, weights: Path, packing: Mapping[str, Any]) -> None:
    """A folder, written whole, that MLflow loads and serves; `packing` is the section of the data
    set that the model was trained on, and InputError where it is another's."""
    from mlflow.pyfunc import save_model

    with TemporaryDirectory() as folder, whole(path) as temporary:
        data = Path(folder) / Path(DATA).name
        embedder.write(data, weights, packing)
        save_model(temporary, data_path=str(data), **described(weights, packing))


def read(uri: str) -> embedder.Embedder:
    """A model that MLflow keeps, by an address such as `models:/heated-digits@champion`; none of
    the code beside it is run. InputError where there is none, or it is not one of ours."""
    where = opened_for_models()
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    with TemporaryDirectory() as folder:
        try:
            found = download_artifacts(uri, dst_path=folder, tracking_uri=where)
        except (MlflowException, OSError) as error:
            raise InputError(f"{uri} cannot be had from {shown(where)}: {reason(error)}") from error
        return embedder.read(Path(found) / DATA)
