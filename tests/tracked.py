"""Runs as they are published, and what MLflow then has of them."""

import json
from typing import Any

from heated.evaluation.summary import summaries

# MLflow's own warning, when it sets up its tables with SQLAlchemy.
MLFLOWS = "ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"
ALPHAS = [16.0, 16.0, 4.0, 4.0]
PART = {"images": 20, "classes": 4}
TAGS = {"dataset": "digits", "recipe": "digits", "study": "run", "backbone": "conv4"}


def history(seed: int, epochs: int = 4) -> list[dict[str, float]]:
    """Epochs, of which every second looks at the unseen classes."""
    return [
        {
            "epoch": epoch,
            "alpha": alpha,
            "temperature": 1 / alpha,
            "lr": 0.05,
            "loss": 1 / (1 + epoch + seed),
            "accuracy": 0.5 + epoch / 10,
            **({"recall_at_1": 0.4 + epoch / 7 + seed / 100, "spread": 0.3} if epoch % 2 else {}),
        }
        for epoch, alpha in enumerate(ALPHAS[:epochs])
    ]


HISTORIES = {0: history(0), 7: history(7)}
METRICS = summaries(
    {0: {"recall_at_1": 0.71, "map_at_r": 0.2}, 7: {"recall_at_1": 0.74, "map_at_r": 0.23}}
)
NAMES = {  # of a history's columns, in MLflow
    "alpha": "schedule/alpha",
    "temperature": "schedule/temperature",
    "lr": "schedule/lr",
    "loss": "train/loss",
    "accuracy": "train/accuracy",
    "recall_at_1": "unseen/recall_at_1",
    "spread": "unseen/spread",
}


def record(key: str, method: str = "hbn", **more: Any) -> dict[str, Any]:
    """A run's provenance, with its tags."""
    return {
        "dataset": "digits",
        "method": method,
        "tags": TAGS | {"method": method},
        "key": key,
        "params": {
            "lr": 0.05,
            "epochs": len(ALPHAS),
            "embedding_dim": 64,
            "alpha": {"name": "step", "start": 16.0, "end": 4.0, "at": 0.7},
            "augment": [{"name": "crop", "size": 7}, {"name": "flip", "probability": 0.5}],
        },
        "data_sha256": "ab" * 32,
        "split": {"tested": "test classes", "train": PART, "query": PART, "gallery": PART},
        "source": {"commit": "c0ffee", "modified": True, "stage": "train@digits-hbn", "none": None},
        "environment": {"device": "made up", "cores": 2},
        "started": "2026-11-24T10:00:00+00:00",
        "seeds": {},
        **more,
    }


def all_of(client: Any, experiment: str) -> list[dict[str, Any]]:
    """Every field that MLflow has of every run of an experiment, but for its own numbers and the
    moments of writing; artifacts with their contents."""
    found = client.get_experiment_by_name(experiment)
    runs = client.search_runs([found.experiment_id])
    names = {run.info.run_id: run.info.run_name for run in runs}
    return sorted((fields(client, run, names) for run in runs), key=lambda each: each["name"])


def fields(client: Any, run: Any, names: dict[str, str]) -> dict[str, Any]:
    """One run's fields; its parent by name."""
    number = run.info.run_id
    tags = dict(run.data.tags)
    tags.pop("heated.digest", None)  # of the record, with the data set's name
    parent = tags.pop("mlflow.parentRunId", None)
    return {
        "name": run.info.run_name,
        "parent": None if parent is None else names[parent],
        "status": run.info.status,
        "params": dict(run.data.params),
        "tags": tags,
        "metrics": dict(run.data.metrics),
        "histories": {
            name: sorted((p.step, p.value) for p in client.get_metric_history(number, name))
            for name in run.data.metrics
        },
        "inputs": [
            (each.dataset.name, each.dataset.digest, each.dataset.source, each.dataset.profile)
            for each in run.inputs.dataset_inputs
        ],
        "artifacts": artifacts(client, number),
        **(
            {"start": run.info.start_time, "end": run.info.end_time}
            if tags["heated.kind"] != "report"
            else {}
        ),
    }


def artifacts(client: Any, run: str, folder: str = "") -> dict[str, bytes]:
    """Contents by path."""
    found: dict[str, bytes] = {}
    for each in client.list_artifacts(run, folder):
        if each.is_dir:
            found |= artifacts(client, run, each.path)
        else:
            with open(client.download_artifacts(run, each.path), "rb") as file:  # noqa: PTH123
                found[each.path] = file.read()
    return found


def told(client: Any, experiment: str) -> str:
    """The same as text, to see differences in."""
    return json.dumps(all_of(client, experiment), indent=1, default=repr)
