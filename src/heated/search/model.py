"""The model that a search uses, by the name its user gives it."""

import re
from pathlib import Path

from heated import config
from heated.common.errors import InputError
from heated.inference import embedder
from heated.inference.embedder import Embedder
from heated.tracking import models


def named(name: str) -> Embedder:
    """A model of MLflow's by its address or folder, or one of the pipeline's by its file,
    runs/<dataset>/<method>/models/seed-<s>.safetensors; InputError where there is none."""
    path = Path(name)
    if re.match(r"[a-z][a-z-]+:/", name):
        return models.read(name)
    if (path / "MLmodel").is_file():
        return embedder.read(path / models.DATA)
    if path.suffix == ".safetensors" and path.is_file():
        return embedder.embedder(path, packing(path.resolve()))
    raise InputError(
        f"{name} is no model; allowed: an address of MLflow's, such as models:/name@alias or "
        "runs:/id/model, the folder of a model that it keeps, or the pipeline's own "
        "runs/<dataset>/<method>/models/seed-<s>.safetensors"
    )


def packing(weights: Path) -> dict[str, object]:
    """How the data set of a file of the pipeline's is packed, by the params.yaml beside `runs`."""
    folders = weights.parents
    if len(folders) < 5 or (folders[0].name, folders[3].name) != ("models", "runs"):
        raise InputError(
            f"{weights} does not lie in runs/<dataset>/<method>/models, so that nothing tells how "
            "its images are packed; save it as a model of MLflow's, which knows"
        )
    datasets = config.load(folders[4] / "params.yaml").datasets
    if (dataset := folders[2].name) not in datasets:
        raise InputError(f"{weights} is of the data set {dataset}, which params.yaml does not know")
    return datasets[dataset].packing.model_dump()


def kept(name: str) -> str:
    """The name as it holds in any folder."""
    return str(Path(name).absolute()) if Path(name).exists() else name
