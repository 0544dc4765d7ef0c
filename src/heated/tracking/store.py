"""The MLflow store: its address, its errors, and the runs of one experiment."""

import json
import os
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from filelock import FileLock

from heated.common.errors import InputError
from heated.common.io import project_root, write_text
from heated.tracking import Record, address, shown
from heated.tracking.naming import Points, flat, tags

NOTE, PARENT = "mlflow.note.content", "mlflow.parentRunId"
TAGS = {"key": "heated.key", "kind": "heated.kind", "note": NOTE, "parent": PARENT}
DIGEST = "heated.digest"  # of a run's whole content; a run that is not whole has none
WRITTEN = "heated.note"  # the digest of the note that we wrote
OURS = ("heated.", "mlflow.", "source.", "environment.", "experiment")  # tags; others are users'
PATIENCE = {  # MLflow itself tries for minutes, and what it tries again may then be there twice
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",  # seconds
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def opened() -> Any:
    """MLflow's client of the store.

    Raises:
        InputError: If the project was moved or copied together with its own store: MLflow keeps
            whole paths, and would look for artifacts, and put new ones, where the project was.
    """
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    from mlflow.tracking import MlflowClient  # 3 to 7 seconds: only where something is tracked

    client, database = MlflowClient(address()), project_root() / "mlflow.db"
    if address() == f"sqlite:///{database}" and database.exists():
        for experiment in client.search_experiments():
            place, expected = experiment.artifact_location, artifacts(experiment.name)
            if "/mlartifacts/" in place and place != expected:
                raise InputError(
                    f"mlflow.db: got artifacts at {place}, expected {expected}: the project moved. "
                    "Delete mlflow.db and run `make track`"
                )
    return client


def artifacts(dataset: str) -> str:
    """The address of the project's folder for the artifacts of an experiment."""
    return (project_root() / "mlartifacts" / dataset).as_uri()


@contextmanager
def alone() -> Iterator[None]:
    """One writer of this project at a time: two that create a database, or a run, make two."""
    with FileLock(project_root() / "mlflow.db.lock"):
        yield


@contextmanager
def told() -> Iterator[None]:
    """What MLflow raises, as InputError that says what to do."""
    try:
        yield
    except Exception as error:
        from mlflow.exceptions import MlflowException  # not before `opened`

        if not isinstance(error, (MlflowException, OSError)):
            raise
        raise InputError(
            f"MLflow at {shown(address())}: {reason(error)}\nStart it or name another one in "
            "MLFLOW_TRACKING_URI, then run this again, which adds what is missing; "
            "HEATED_TRACKING=off goes without it"
        ) from error


def reason(error: Exception) -> str:
    """What an error says, without a password that stands in the store's address."""
    return str(error).replace(address(), shown(address()))[:500]


class Store:
    """The experiment of a data set."""

    def __init__(self, dataset: str) -> None:
        self.dataset, self.client = dataset, opened()
        if known := self.client.get_experiment_by_name(dataset):
            self.experiment = known.experiment_id
            return
        local = address().startswith("sqlite:")  # else artifacts lie with the server
        self.experiment = self.client.create_experiment(
            dataset,
            artifact_location=artifacts(dataset) if local else None,
            tags={"mlflow.experimentKind": "custom_model_development"},
        )

    def find(self, **values: str) -> list[Any]:
        """The runs with this `key` and `kind`, or this `parent`, the oldest first."""
        query = " and ".join(f"tags.`{TAGS[name]}` = '{value}'" for name, value in values.items())
        order = ["attributes.start_time", "attributes.run_id"]
        return list(self.client.search_runs([self.experiment], query, order_by=order))

    def create(
        self,
        record: Record,
        seed: int | None = None,
        *,
        former: Sequence[Any] = (),
        **more: str,
    ) -> str:
        """Create a method's run, or that of a seed, with parameters and data set; return its id.

        former: the method's runs before, whose descriptions and tags by users are kept. more: the
        `parent` and the `note`.
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag, Param

        title, key, kind = f"{record['method']} · {self.dataset}", record["key"], "run"
        params = flat(record["params"])
        if seed is not None:
            title, key, kind = f"{title} · seed {seed}", f"{key}-{seed}", "seed"
            params["seed"] = seed
            below = [child for run in former for child in self.find(parent=run.info.run_id)]
            former = [child for child in below if child.data.tags["seed"] == str(seed)]
        own = {"key": key, "kind": kind, **more}.items()
        wanted = {**tags(record, seed), **{TAGS[name]: value for name, value in own if value}}
        wanted |= {WRITTEN: digest(wanted[NOTE])} if NOTE in wanted else {}
        for had in (run.data.tags for run in former):
            wanted |= {k: v for k, v in had.items() if k not in wanted and not k.startswith(OURS)}
            if NOTE in had and had.get(WRITTEN) != digest(had[NOTE]):
                wanted[NOTE] = had[NOTE]
        made = self.client.create_run(self.experiment, ended(record, 0), wanted, title)
        pairs = [Param(name, str(value)) for name, value in params.items()]
        self.client.log_batch(made.info.run_id, params=pairs)
        source = {"source": record["tags"]["dataset"], "dvc": f"data/packed/{self.dataset}"}
        data = Dataset(
            name=self.dataset,
            digest=record["data_sha256"][:36],
            source_type="dvc",
            source=json.dumps(source),
            profile=json.dumps(record["split"]),
        )
        training = [InputTag("mlflow.data.context", "training")]
        self.client.log_inputs(made.info.run_id, [DatasetInput(data, training)])
        return str(made.info.run_id)

    def log(self, run_id: str, points: Points, record: Record, seconds: float | None) -> None:
        """Add metrics at their steps. An epoch ended at its share of the `seconds` of training, or
        now where those are not known."""
        from mlflow.entities import Metric

        now, epochs = int(1000 * time.time()), max(1, record["params"]["epochs"])
        new = [
            Metric(name, value, ended(record, seconds, (step + 1) / epochs) or now, step)
            for values, step in points
            for name, value in values.items()
            if value is not None
        ]
        for start in range(0, len(new), 1000):  # MLflow takes so many at once
            self.client.log_batch(run_id, metrics=new[start : start + 1000])

    def attach(self, run_id: str, files: Mapping[str, str]) -> None:
        """Keep texts as the run's artifacts, by their paths."""
        with TemporaryDirectory() as folder:
            for name, text in files.items():
                write_text(Path(folder) / name, text)
            if files:
                self.client.log_artifacts(run_id, folder)

    def whole(self, content: str, key: str, seeds: Collection[int]) -> str:
        """The id of the method's run of this digest, "" where there is none. Where there is, other
        runs of its key are deleted with these seeds: former ones, and those of a process that was
        killed, or that wrote the same at the same time."""
        runs = self.find(key=key, kind="run")
        same = [run.info.run_id for run in runs if run.data.tags.get(DIGEST) == content]
        for run in runs if same else ():
            if run.info.run_id != same[0]:
                self.delete(run, seeds, same[0])
        return str(same[0]) if same else ""

    def delete(self, run: Any, seeds: Collection[int] | None = None, heir: str = "") -> None:
        """Delete a run with its seeds; those that `seeds` leaves out come under another run."""
        for child in self.find(parent=run.info.run_id):
            if seeds is None or int(child.data.tags["seed"]) in seeds:
                self.client.delete_run(child.info.run_id)
            else:
                self.client.set_tag(child.info.run_id, PARENT, heir)
        self.client.delete_run(run.info.run_id)


def digest(content: Any) -> str:
    """64 hexadecimal digits that tell one content, of what JSON can hold, from another."""
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def ended(record: Record, seconds: float | None, share: float = 1) -> int | None:
    """When a share of a training of so many seconds was over, in MLflow's milliseconds; None where
    the record does not say when it started, or the seconds are not known."""
    started = record.get("started")
    if started is None or seconds is None:
        return None
    return int(1000 * (datetime.fromisoformat(started).timestamp() + seconds * share))
