"""A seed of each method as a model in MLflow, and the champion of a data set among them.

They are chosen by a metric of validation classes, or, where a data set has none, they are the first
seed and the first method: the test classes choose nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from heated.inference import embedder
from heated.tracking import Record
from heated.tracking.models import save
from heated.tracking.store import Store, alone, opened_for_models

DIGEST, CHAMPION = "heated.digest", "champion"


@dataclass(frozen=True)
class Trained:
    """A run: its record, its id in MLflow, the folder of its seeds' models, its metrics as in
    metrics.json."""

    record: Record
    run_id: str
    models: Path
    metrics: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Chosen:
    """A run's seed, its value by which models are compared, and its model."""

    run: Trained
    seed: int
    value: float
    packing: Mapping[str, Any]

    @property
    def weights(self) -> Path:
        """The model's file."""
        return self.run.models / f"seed-{self.seed}.safetensors"

    @property
    def digest(self) -> str:
        """The same for equal models of equal packing."""
        return embedder.embedder(self.weights, self.packing).digest


def keep(
    runs: Sequence[Trained], packing: Mapping[str, Any], *, metric: str | None, register: bool
) -> None:
    """A seed's model under each run of a data set; registered as heated-<dataset>, with the best as
    its champion, if wanted. What is there already is not written again.

    metric: of the validation classes, higher is better; None where there are none.
    """
    opened_for_models()
    models = [Chosen(run, *best_seed(run.metrics, metric), packing) for run in runs]
    with alone():
        kept = [logged(model) for model in models]
        if register and models:
            versions = [registered(*each) for each in zip(models, kept, strict=True)]
            values = [model.value for model in models]
            client, name = Store(runs[0].record).client, registered_name(runs[0].record)
            client.set_registered_model_alias(name, CHAMPION, versions[values.index(max(values))])


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


def logged(model: Chosen) -> str:
    """The id of the model in MLflow, written there where it is missing."""
    from mlflow.entities import LoggedModelOutput

    store, run_id, digest = Store(model.run.record), model.run.run_id, model.digest
    client = store.client
    found = client.search_logged_models(
        [store.experiment], f"source_run_id = '{run_id}' and tags.`{DIGEST}` = '{digest}'"
    )
    if whole := [each for each in found if each.status == "READY"]:
        return str(whole[0].model_id)
    name = f"{model.run.record['method']}-seed-{model.seed}"
    with TemporaryDirectory() as folder:
        save(Path(folder) / "model", model.weights, model.packing)
        made = client.create_logged_model(
            store.experiment, name=name, source_run_id=run_id, tags={DIGEST: digest}
        )
        client.log_model_artifacts(made.model_id, str(Path(folder) / "model"))
    client.log_outputs(run_id, [LoggedModelOutput(made.model_id, step=0)])
    client.finalize_logged_model(made.model_id, "READY")
    return str(made.model_id)


def registered(model: Chosen, number: str) -> str:
    """The model's version under the data set's name, given it where it has none."""
    client, name = Store(model.run.record).client, registered_name(model.run.record)
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    source = f"models:/{number}"
    versions = client.search_model_versions(f"name = '{name}'")
    if there := [version for version in versions if version.source == source]:
        return str(there[0].version)
    return str(client.create_model_version(name, source, model.run.run_id).version)


def registered_name(record: Record) -> str:
    """What the models of a data set are registered as."""
    return f"heated-{record['dataset']}"
