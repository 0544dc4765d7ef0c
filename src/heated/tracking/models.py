"""Trained models in MLflow: a seed of each method, and the champion of a data set among them.

Each is a `pyfunc` from images of any size to unit embeddings, and no pickle: it is the folder that
`inference` reads, with this package's code beside it, as no index of packages has it. Metrics of
validation classes choose among them, or, where a data set has none, it is the first seed and the
first method: the test classes choose nothing.
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
from heated.common.io import whole
from heated.inference import embedder
from heated.tracking import Trained, address, shown
from heated.tracking.store import DIGEST, Store, alone, opened, reason

DATA = "data/model"  # in what MLflow keeps: the folder for `inference`
REQUIRED = ("mlflow", "numpy", "pillow", "psutil", "safetensors", "torch", "torchvision", "tqdm")
CHAMPION = "champion"


def keep(
    runs: Sequence[Trained], packing: Mapping[str, Any], *, metric: str | None, register: bool
) -> None:
    """Log a seed's model under each run of a data set; register them as heated-<dataset>, with the
    best as its champion, if wanted. What is there already is not written again.

    metric: of the validation classes, higher is better; None where there are none.
    """
    dataset = runs[0].record["dataset"]
    chosen = [best_seed(run.metrics, metric) for run in runs]
    with alone():
        store = Store(dataset)
        name_store()
        models = [
            logged(store, run, seed, packing) for run, (seed, _) in zip(runs, chosen, strict=True)
        ]
        if register:
            name = f"heated-{dataset}"
            pairs = zip(runs, models, strict=True)
            versions = [registered(store.client, name, run.run_id, model) for run, model in pairs]
            values = [value for _, value in chosen]
            best = versions[values.index(max(values))]
            store.client.set_registered_model_alias(name, CHAMPION, best)


def best_seed(metrics: Mapping[str, Mapping[str, Any]], metric: str | None) -> tuple[int, float]:
    """The seed with the highest value, and the value; without a metric the first seed and 0.

    >>> metrics = {"recall_at_1": {"seeds": {"0": 0.5, "7": 0.75}}}
    >>> best_seed(metrics, "recall_at_1"), best_seed(metrics, None)
    ((7, 0.75), (0, 0.0))
    """
    if metric is None:
        return int(next(iter(next(iter(metrics.values()))["seeds"]))), 0.0
    values = metrics[metric]["seeds"]
    seed = max(values, key=values.__getitem__)
    return int(seed), float(values[seed])


def logged(store: Store, run: Trained, seed: int, packing: Mapping[str, Any]) -> str:
    """The id of a seed's model in MLflow; it is written where it is missing, and named as the run's
    output where the run is a new one."""
    from mlflow.entities import LoggedModelOutput

    client, weights = store.client, run.models / f"seed-{seed}.safetensors"
    name, digest = f"{run.record['method']}-seed-{seed}", embedder.embedder_digest(weights, packing)
    found = client.search_logged_models(
        [store.experiment], f"name = '{name}' and tags.`{DIGEST}` = '{digest}'"
    )
    ready = [str(model.model_id) for model in found if model.status == "READY"]
    if not ready:
        with TemporaryDirectory() as folder:
            save(Path(folder) / "model", weights, packing)
            made = client.create_logged_model(
                store.experiment, name=name, source_run_id=run.run_id, tags={DIGEST: digest}
            )
            client.log_model_artifacts(made.model_id, str(Path(folder) / "model"))
        client.finalize_logged_model(made.model_id, "READY")
        ready = [str(made.model_id)]
    outputs = client.get_run(run.run_id).outputs
    if ready[0] not in [each.model_id for each in outputs.model_outputs]:
        client.log_outputs(run.run_id, [LoggedModelOutput(ready[0], step=0)])
    return ready[0]


def registered(client: Any, name: str, run_id: str, model: str) -> str:
    """The version of a run's model under the data set's name, given it where it has none: a run
    that was written anew has the model of the former one, whose version names the former run."""
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    source = f"models:/{model}"
    for known in client.search_model_versions(f"name = '{name}'"):
        if (known.source, known.run_id) == (source, run_id):
            return str(known.version)
    return str(client.create_model_version(name, source, run_id).version)


def save(path: Path, weights: Path, packing: Mapping[str, Any]) -> None:
    """A folder, written whole, that MLflow loads and serves; `packing` is the section of the data
    set that the model was trained on, and InputError where it is another's."""
    from mlflow.models import ModelSignature
    from mlflow.pyfunc import save_model
    from mlflow.types import Schema, TensorSpec

    dim = embedder.make_embedder(weights, packing).model.architecture.embedding_dim
    images = TensorSpec(np.dtype(object), (-1,))
    signature = ModelSignature(
        Schema([images]), Schema([TensorSpec(np.dtype(np.float32), (-1, dim))])
    )
    # MLflow has no kind for images of several sizes: its own check would refuse a list of arrays.
    # Marked like this, it leaves the check to `predict`.
    signature._is_signature_from_type_hint = True
    example = BytesIO()
    Image.new("L", (packing["size"], packing["size"]), 128).save(example, "png")
    with TemporaryDirectory() as folder, whole(path) as temporary:
        data = Path(folder) / Path(DATA).name
        embedder.save_embedder(data, weights, packing)
        save_model(
            temporary,
            data_path=str(data),
            loader_module=embedder.__name__,
            code_paths=[str(Path(heated.__file__).parent)],
            signature=signature,
            input_example=np.array([b64encode(example.getvalue()).decode()], dtype=object),
            # without the kind of build: 2.11.0+cpu is 2.11.0
            pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in REQUIRED],
        )


def read(uri: str) -> embedder.Embedder:
    """A model that MLflow keeps, by an address such as `models:/heated-digits@champion`; none of
    the code beside it is run. InputError where there is none, or it is not one of ours."""
    opened()
    name_store()
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    with TemporaryDirectory() as folder:
        try:
            found = download_artifacts(uri, dst_path=folder, tracking_uri=address())
        except (MlflowException, OSError) as error:
            told = f"{uri} cannot be had from {shown(address())}: {reason(error)}"
            raise InputError(told) from error
        return embedder.load_embedder(Path(found) / DATA)


def name_store() -> None:
    """Name the store to MLflow, which looks registered models up at one address per process."""
    import mlflow

    mlflow.set_tracking_uri(address())
