"""Made-up runs to publish, and what MLflow then has of them."""

from typing import Any

from heated.evaluation.metrics import summarize_seeds

# MLflow's own warning when it sets up its tables with SQLAlchemy.
MLFLOW_WARNING = "ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"
ALPHAS = [16.0, 16.0, 4.0, 4.0]
PART = {"images": 20, "classes": 4}
TAGS = {"dataset": "digits", "recipe": "digits", "study": "run", "backbone": "conv4"}


def history(seed: int, epochs: int = 4) -> list[dict[str, float]]:
    """Return rows of epochs, every second one with metrics of the unseen classes."""
    return [
        {
            "epoch": epoch,
            "alpha": alpha,
            "temperature": 1 / alpha,
            "lr": 0.05,
            "loss": 1 / (1 + epoch + seed),
            "accuracy": 0.5 + epoch / 10,
            **({"recall_at_1": 0.4 + epoch / 7 + seed / 100} if epoch % 2 else {}),
            **({"inter_class_distance": 0.3} if epoch % 2 else {}),
        }
        for epoch, alpha in enumerate(ALPHAS[:epochs])
    ]


HISTORIES = {0: history(0), 7: history(7)}
METRICS = summarize_seeds(
    {0: {"recall_at_1": 0.71, "map_at_r": 0.2}, 7: {"recall_at_1": 0.74, "map_at_r": 0.23}}
)
NAMES = {  # of a history's columns, in MLflow
    **{name: f"schedule/{name}" for name in ("alpha", "temperature", "lr")},
    **{name: f"train/{name}" for name in ("loss", "accuracy")},
    **{name: f"unseen/{name}" for name in ("recall_at_1", "inter_class_distance")},
}


def make_record(key: str, method: str = "hbn", **changes: Any) -> dict[str, Any]:
    """Return a run's provenance with its tags."""
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
            "augment": [{"name": "crop", "size": 7}, {"name": "flip", "p": 0.5}],
        },
        "data_sha256": "ab" * 32,
        "split": {"tested": "test classes", "train": PART, "query": PART, "gallery": PART},
        "source": {"commit": "c0ffee", "modified": True, "stage": "train@digits-hbn", "none": None},
        "environment": {"device": "made up", "cores": 2},
        "started": "2026-11-24T10:00:00+00:00",
        "seeds": {},
        **changes,
    }


def record_runs(client: Any, key: str, kind: str) -> list[Any]:
    """Return the runs of a record as a user finds them."""
    experiment = client.get_experiment_by_name("digits").experiment_id
    runs = client.search_runs([experiment], f"tags.`heated.kind` = '{kind}'")
    return [run for run in runs if run.data.tags["heated.key"].split("-")[0] == key]


def method_run(client: Any, key: str) -> Any:
    """Return the only run of a record's method."""
    (run,) = record_runs(client, key, "run")
    return run


def seed_run(client: Any, key: str, seed: int) -> Any:
    """Return the only run of a record's seed."""
    runs = record_runs(client, key, "seed")
    (run,) = [run for run in runs if run.data.tags["seed"] == str(seed)]
    return run


def statuses(client: Any, key: str) -> tuple[list[str], list[str]]:
    """Return the statuses of a method's runs, and of its seeds' runs."""
    run, seed = ([r.info.status for r in record_runs(client, key, k)] for k in ("run", "seed"))
    return run, seed


def metric_points(client: Any, run: Any, name: str) -> list[tuple[int, float]]:
    """Return step and value of each point of a metric."""
    points = client.get_metric_history(run.info.run_id, name)
    return sorted((point.step, point.value) for point in points)


def record_points(client: Any, key: str) -> list[tuple[str, list[tuple[int, float]]]]:
    """Return all metrics of all runs of a record, without the runs' ids."""
    runs = record_runs(client, key, "run") + record_runs(client, key, "seed")
    return sorted((n, metric_points(client, run, n)) for run in runs for n in run.data.metrics)


def experiment_fields(client: Any, experiment: str) -> list[dict[str, Any]]:
    """Return all fields of all runs of an experiment but ids and times of writing."""
    runs = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    names = {run.info.run_id: run.info.run_name for run in runs}
    return sorted((run_fields(client, run, names) for run in runs), key=lambda run: run["name"])


def run_fields(client: Any, run: Any, names: dict[str, str]) -> dict[str, Any]:
    """Return a run's fields, with its parent by name and artifacts by contents."""
    own = ("heated.digest", "heated.owner")  # of this machine's code and folder
    tags = {key: tag for key, tag in run.data.tags.items() if key not in own}
    parent = tags.pop("mlflow.parentRunId", None)
    is_report = tags["heated.kind"] == "report"
    return {
        "name": run.info.run_name,
        "parent": None if parent is None else names[parent],
        "status": run.info.status,
        "times": None if is_report else (run.info.start_time, run.info.end_time),
        "params": dict(run.data.params),
        "tags": tags,
        "metrics": dict(run.data.metrics),
        "histories": {name: metric_points(client, run, name) for name in run.data.metrics},
        "inputs": [vars(each.dataset) for each in run.inputs.dataset_inputs],
        "artifacts": artifacts(client, run.info.run_id),
    }


def artifacts(client: Any, run_id: str, folder: str = "") -> dict[str, bytes]:
    """Return the contents of a run's artifacts by path."""
    contents: dict[str, bytes] = {}
    for each in client.list_artifacts(run_id, folder):
        if each.is_dir:
            contents |= artifacts(client, run_id, each.path)
        else:
            with open(client.download_artifacts(run_id, each.path), "rb") as file:  # noqa: PTH123
                contents[each.path] = file.read()
    return contents
