"""The model that a search uses, by the name its user gives it."""

import re
from pathlib import Path

from heated.common.errors import InputError
from heated.common.io import read_json
from heated.common.paths import RESOLVED
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
    """Return how the data set of a model file of the pipeline is packed.

    Raises:
        InputError: If the resolved settings beside `runs` do not have the data set.
    """
    folders = weights.parents
    if len(folders) < 5 or (folders[0].name, folders[3].name) != ("models", "runs"):
        raise InputError(
            f"{weights} does not lie in runs/<dataset>/<method>/models, so that nothing tells how "
            "its images are packed; save it as a model of MLflow's, which knows"
        )
    dataset = folders[2].name
    settings = folders[4] / RESOLVED / "packing" / f"{dataset}.json"
    if not settings.is_file():
        raise InputError(
            f"{weights}: got the data set {dataset!r}, which {settings} does not describe. Name it "
            "in params.yaml and run `python -m stages.resolve`."
        )
    found: dict[str, object] = read_json(settings)["packing"]
    return found


def kept(name: str) -> str:
    """The name as it holds in any folder."""
    return str(Path(name).absolute()) if Path(name).exists() else name
