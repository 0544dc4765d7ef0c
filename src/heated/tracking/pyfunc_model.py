"""Log trained models to MLflow, and register the best one of a data set as its champion.

Each model is a `pyfunc` from images of any size to unit embeddings: the folder that `inference`
reads, without pickle, and a copy of this package's code. The choice of seed and method uses metrics
of validation classes only. A data set without these takes the first seed and the first method.
"""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

import heated
from heated.common.errors import InputError
from heated.common.io import atomic_write
from heated.inference import embedder
from heated.tracking import PublishedRun, Summaries, experiment_name, tracking_uri
from heated.tracking.client import DIGEST_TAG, Experiment
from heated.tracking.store import error_summary, open_store, store_address, store_lock

DATA_PATH = "data/model"  # the folder for `inference` in a logged model
PACKAGES = (  # of `inference` and all that it imports
    *("mlflow", "numpy", "pillow", "psutil", "safetensors", "threadpoolctl"),
    *("torch", "torchvision", "tqdm"),
)
CHAMPION = "champion"
CHAMPION_TAG = "heated.champion"  # who set the champion, and its version


def log_models(
    runs: Sequence[PublishedRun], packing: Mapping[str, Any], *, metric: str | None, register: bool
) -> None:
    """Log the best seed's model of each run on a data set, unless it is logged already.

    The best has the highest `metric` of the validation classes, None if there are no such classes.
    With `register`, models are versions of heated-<dataset>, and the best one is its champion.
    """
    import mlflow

    name, versions, values = f"heated-{runs[0].record['dataset']}", [], []
    with store_lock():
        record = runs[0].record
        experiment = Experiment(record["dataset"], experiment_name(record))
        mlflow.set_tracking_uri(tracking_uri())  # where MLflow looks registered models up
        for run in runs:
            seed, value = best_seed(run.metrics, metric)
            model_id = log_model(experiment, run, seed, packing)
            if register:
                values.append(value)
                versions.append(register_version(experiment.client, name, run.run_id, model_id))
        if register:
            set_champion(experiment, name, versions[values.index(max(values))])


def set_champion(experiment: Experiment, name: str, version: str) -> None:
    """Make a version the champion, unless a user or another workspace has chosen one."""
    model = experiment.client.get_registered_model(name)
    current, former = model.aliases.get(CHAMPION), model.tags.get(CHAMPION_TAG)
    is_legacy = former is None and not experiment.name  # earlier versions set no tag
    if current is None or is_legacy or former == f"{experiment.owner}: {current}":
        tag = f"{experiment.owner}: {version}"
        experiment.client.set_registered_model_alias(name, CHAMPION, version)
        experiment.client.set_registered_model_tag(name, CHAMPION_TAG, tag)


def best_seed(metrics: Summaries, metric: str | None) -> tuple[int, float]:
    """Return the seed with the highest value, and the value; the first seed and 0 if no metric.

    >>> metrics = {"recall_at_1": {"seeds": {"0": 0.5, "7": 0.75}}}
    >>> best_seed(metrics, "recall_at_1"), best_seed(metrics, None)
    ((7, 0.75), (0, 0.0))
    """
    if metric is None:
        return int(next(iter(next(iter(metrics.values()))["seeds"]))), 0.0
    seed, value = max(metrics[metric]["seeds"].items(), key=lambda item: item[1])
    return int(seed), float(value)


def log_model(
    experiment: Experiment, run: PublishedRun, seed: int, packing: Mapping[str, Any]
) -> str:
    """Log a seed's model as the run's output, unless it is logged already, and return its id."""
    from mlflow.entities import LoggedModelOutput

    client, weights = experiment.client, run.models / f"seed-{seed}.safetensors"
    name, digest = f"{run.record['method']}-seed-{seed}", embedder.embedder_digest(weights, packing)
    query = f"name = '{name}' and tags.`{DIGEST_TAG}` = '{digest}'"
    existing = client.search_logged_models([experiment.id], query)
    model_id = next((model.model_id for model in existing if model.status == "READY"), None)
    if model_id is None:
        with TemporaryDirectory() as folder:
            save_pyfunc(Path(folder) / "model", weights, packing)
            model_id = client.create_logged_model(
                experiment.id, name=name, source_run_id=run.run_id, tags={DIGEST_TAG: digest}
            ).model_id
            client.log_model_artifacts(model_id, str(Path(folder) / "model"))
        client.finalize_logged_model(model_id, "READY")
    outputs = client.get_run(run.run_id).outputs.model_outputs
    if model_id not in [output.model_id for output in outputs]:
        client.log_outputs(run.run_id, [LoggedModelOutput(model_id, step=0)])
    return str(model_id)


def register_version(client: Any, name: str, run_id: str, model_id: str) -> str:
    """Return the version of a run's model under a registered name, created if it is missing.

    A run that was written again has its former run's model but needs a version of its own.
    """
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    key = (f"models:/{model_id}", run_id)
    existing = client.search_model_versions(f"name = '{name}'")
    versions = [each.version for each in existing if (each.source, each.run_id) == key]
    return str(versions[0] if versions else client.create_model_version(name, *key).version)


def save_pyfunc(path: Path, weights: Path, packing: Mapping[str, Any]) -> None:
    """Save a model as a folder for MLflow. Raises InputError if it was trained on other packing."""
    import mlflow
    from mlflow.types import Schema, TensorSpec

    dim = embedder.make_embedder(weights, packing).model.architecture.embedding_dim
    inputs = Schema([TensorSpec(np.dtype(object), (-1,))])
    outputs = Schema([TensorSpec(np.dtype(np.float32), (-1, dim))])
    signature = mlflow.models.ModelSignature(inputs, outputs)
    # MLflow has no type for images of several sizes, and its check would refuse a list of arrays.
    # This mark leaves the check to `predict`.
    signature._is_signature_from_type_hint = True
    example = BytesIO()
    Image.new("L", (packing["size"], packing["size"]), 128).save(example, "png")
    with TemporaryDirectory() as folder, atomic_write(path) as temporary:
        data = Path(folder) / Path(DATA_PATH).name
        embedder.save_embedder(data, weights, packing)
        mlflow.pyfunc.save_model(
            temporary,
            data_path=str(data),
            loader_module=embedder.__name__,
            code_paths=[str(Path(heated.__file__).parent)],
            signature=signature,
            input_example=np.array([b64encode(example.getvalue()).decode()], dtype=object),
            # Package indexes may lack local builds: 2.11.0+cpu becomes 2.11.0.
            pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in PACKAGES],
        )


def load_from_mlflow(uri: str) -> embedder.Embedder:
    """Load a logged model, such as `models:/heated-digits@champion`, without running its code."""
    with store_lock():
        open_store()
    import mlflow

    mlflow.set_tracking_uri(tracking_uri())
    with TemporaryDirectory() as folder:
        try:
            path = mlflow.artifacts.download_artifacts(uri, dst_path=folder)
        except (mlflow.MlflowException, OSError) as error:
            message = f"{uri}: not available at {store_address()}: {error_summary(error)}"
            raise InputError(message) from error
        return embedder.load_embedder(Path(path) / DATA_PATH)
