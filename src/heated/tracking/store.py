"""The tracking store, as far as one run needs it: each thing is written where it is missing."""

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from filelock import FileLock

from heated.common.errors import InputError
from heated.common.io import project_root
from heated.tracking import Record, address, shown
from heated.tracking.moving import ARTIFACTS, settle
from heated.tracking.naming import Points, flat, tags

KEY, KIND, FILES = "heated.key", "heated.kind", "heated.files"
NOTE, PARENT = "mlflow.note.content", "mlflow.parentRunId"
SHARED = ("dataset", "recipe")  # tags of all runs on a data set
PATIENCE = {  # MLflow itself tries for minutes, and what it tries again may then be there twice
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",  # seconds
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def opened() -> str:
    """The store's address, ready for MLflow to be imported and used."""
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    if address() == f"sqlite:///{project_root()}/mlflow.db":
        settle(project_root() / "mlflow.db", project_root())
    return address()


def opened_for_models() -> str:
    """The same; MLflow looks registered models up at the address of the whole process."""
    where = opened()
    import mlflow

    mlflow.set_tracking_uri(where)
    return where


@contextmanager
def alone() -> Iterator[None]:
    """One writer of this project at a time: two that create a database, or a run, make two."""
    with FileLock(project_root() / "mlflow.db.lock"):
        yield


@contextmanager
def told() -> Iterator[None]:
    """What MLflow raises, as InputError that says what to do."""
    opened()
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:
        raise InputError(
            f"MLflow at {shown(address())}: {reason(error)}\nStart it or name another one in "
            "MLFLOW_TRACKING_URI, then run this again, which adds what is missing; "
            "HEATED_TRACKING=off goes without it"
        ) from error


def reason(error: Exception) -> str:
    """What an error says, without a password that stands in the store's address."""
    return str(error).replace(address(), shown(address()))[:500]


class Store:
    """A run's experiment in the store."""

    def __init__(self, record: Record) -> None:
        where = opened()
        from mlflow.tracking import MlflowClient  # 3 to 7 seconds: only where a run is published

        self.record = record
        self.client = MlflowClient(where)
        known = self.client.get_experiment_by_name(record["dataset"])
        self.experiment = known.experiment_id if known else self.created(where)

    def created(self, where: str) -> str:
        """A new experiment's number; its artifacts lie in the project, or with the server."""
        folder = project_root() / ARTIFACTS / self.record["dataset"]
        return str(
            self.client.create_experiment(
                self.record["dataset"],
                artifact_location=folder.as_uri() if where.startswith("sqlite:") else None,
                tags={"mlflow.experimentKind": "custom_model_development"},
            )
        )

    def run(
        self,
        title: str,
        key: str,
        *,
        kind: str,
        parent: str | None = None,
        seed: int | None = None,
    ) -> Any:
        """The run with this key; created, with its parameters, where there is none. Its tags are
        brought up to date."""
        wanted = {KEY: key, KIND: kind, **tags(self.record, seed)}
        wanted |= {PARENT: parent} if parent else {}
        if (run := self.found(key, kind)) is None:
            self.client.create_run(self.experiment, moment(self.record), wanted, title)
            run = self.found(key, kind)
        self.tag(run, wanted)
        self.describe(run, {} if seed is None else {"seed": seed})
        return run

    def report(self, title: str) -> Any:
        """The run that has a data set's report, found by its title."""
        wanted = {KEY: title, KIND: "report", **{k: self.record["tags"][k] for k in SHARED}}
        if (run := self.found(title, "report")) is None:
            self.client.create_run(self.experiment, tags=wanted, run_name=title)
            run = self.found(title, "report")
        return run

    def note(self, text: str) -> None:
        """What is shown above the experiment's runs."""
        if self.client.get_experiment(self.experiment).tags.get(NOTE) != text:
            self.client.set_experiment_tag(self.experiment, NOTE, text)

    def found(self, key: str, kind: str) -> Any:
        """The run with this key, the first one where two machines created it at once; None where
        there is none."""
        query = f"tags.`{KEY}` = '{key}' and tags.`{KIND}` = '{kind}'"
        runs = self.client.search_runs(
            [self.experiment], query, order_by=["attributes.start_time", "attributes.run_id"]
        )
        for double in runs[1:]:
            self.client.delete_run(double.info.run_id)
        return runs[0] if runs else None

    def children(self, run: Any) -> list[Any]:
        """The runs under a run."""
        query = f"tags.`{PARENT}` = '{run.info.run_id}'"
        return list(self.client.search_runs([self.experiment], query))

    def describe(self, run: Any, more: Mapping[str, Any]) -> None:
        """The run's parameters and data set, unless it has them; MLflow lets none be changed."""
        from mlflow.entities import Param

        params = {**flat(self.record["params"]), **more}
        missing = {key: value for key, value in params.items() if key not in run.data.params}
        if missing:
            pairs = [Param(key, str(value)) for key, value in missing.items()]
            self.client.log_batch(run.info.run_id, params=pairs)
        if not run.inputs.dataset_inputs:
            self.client.log_inputs(run.info.run_id, [self.data()])

    def data(self) -> Any:
        """The data set with its digest, where it comes from, and how many images it has."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        name, digest = self.record["dataset"], self.record["data_sha256"]
        source = {"source": self.record["tags"]["dataset"], "dvc": f"data/packed/{name}"}
        data = Dataset(
            name=name,
            digest=digest[:36],
            source_type="dvc",
            source=json.dumps(source),
            profile=json.dumps(self.record["split"]),
        )
        return DatasetInput(data, [InputTag("mlflow.data.context", "training")])

    def tag(self, run: Any, wanted: Mapping[str, str]) -> None:
        """The run's tags, where they are others."""
        for key, value in wanted.items():
            if run.data.tags.get(key) != value:
                self.client.set_tag(run.info.run_id, key, value)

    def known(self, run: Any, points: Points) -> dict[tuple[str, int], float]:
        """What the run has of the points' metrics, by name and step."""
        names = {name for values, _ in points for name in values} & run.data.metrics.keys()
        return {
            (name, point.step): point.value
            for name in names
            for point in self.client.get_metric_history(run.info.run_id, name)
        }

    def contradicts(self, run: Any, points: Points) -> bool:
        """Whether the run has another value at one of the points."""
        known = self.known(run, points)
        return any(
            value is not None and known.get((name, step), value) != value
            for values, step in points
            for name, value in values.items()
        )

    def add(self, run: Any, points: Points, *, seconds: float | None, revise: bool = False) -> None:
        """Metrics at their steps. Where there is a value already it stays, or, to `revise`, a
        different one is added, which MLflow then takes for the latest. seconds: what training
        took; two that write the same at once leave one point, if both know it."""
        from mlflow.entities import Metric

        known = self.known(run, points)
        new = [
            Metric(name, value, self.time(step, None if (name, step) in known else seconds), step)
            for values, step in points
            for name, value in values.items()
            if value is not None
            and ((name, step) not in known or (revise and known[name, step] != value))
        ]
        for start in range(0, len(new), 1000):  # MLflow takes so many at once
            self.client.log_batch(run.info.run_id, metrics=new[start : start + 1000])

    def time(self, step: int, seconds: float | None) -> int:
        """When an epoch ended, in MLflow's milliseconds: by its share of the training, or now
        where that is not over."""
        started, epochs = moment(self.record), max(1, self.record["params"]["epochs"])
        if started is None or seconds is None:
            return int(1000 * time.time())
        return started + int(1000 * seconds * (step + 1) / epochs)

    def attach(self, run: Any, files: Mapping[str, str]) -> None:
        """Texts as the run's artifacts, by their paths; nothing where it has the same."""
        digest = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
        if not files or run.data.tags.get(FILES) == digest:
            return
        with TemporaryDirectory() as folder:
            for name, text in files.items():
                path = Path(folder) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8", newline="")
            self.client.log_artifacts(run.info.run_id, folder)
        self.tag(run, {FILES: digest})

    def end(self, run: Any, status: str, seconds: float | None = None) -> None:
        """The run's status and when it ended, where they are others."""
        started = moment(self.record)
        ended = None if seconds is None or started is None else started + int(1000 * seconds)
        if run.info.status == status and ended in (None, run.info.end_time):
            return
        if status == "RUNNING":
            self.client.update_run(run.info.run_id, status)
        else:
            self.client.set_terminated(run.info.run_id, status, ended)


def moment(record: Record) -> int | None:
    """When a run was started, in MLflow's milliseconds; None where its record does not say."""
    started = record.get("started")
    return None if started is None else int(1000 * datetime.fromisoformat(started).timestamp())
