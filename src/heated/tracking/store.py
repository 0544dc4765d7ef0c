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
TITLE = "heated.title"  # the name that we gave a run
FILES = "heated.files"  # a tag of earlier versions, which wrote notes without the tag WRITTEN
OURS = ("heated.", "mlflow.", "source.", "environment.")  # tags; others are users'
RAISING = ("alembic", "mlflow", "requests", "sqlalchemy", "sqlite3", "urllib3")  # by MLflow's calls
PATIENCE = {  # MLflow itself tries for minutes, and what it tries again may then be there twice
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",  # seconds
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def is_local() -> bool:
    """Whether the store is the project's own database."""
    return address() == f"sqlite:///{project_root()}/mlflow.db"


@contextmanager
def told() -> Iterator[None]:
    """What MLflow, its database or the connection raises, as InputError that says what to do."""
    try:
        yield
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in RAISING:
            raise
        advice = (
            "If it is damaged or of another MLflow version, delete mlflow.db and run `make track`"
            if is_local()
            else "Start it or name another one in MLFLOW_TRACKING_URI, then run this again, which "
            "adds what is missing"
        )
        raise InputError(
            f"MLflow at {shown(address())}: {reason(error)}\n{advice}; "
            "HEATED_TRACKING=off goes without it"
        ) from error


@told()
def opened() -> Any:
    """MLflow's client of the store.

    Raises:
        InputError: If the project was moved or copied together with its own store: MLflow keeps
            whole paths, and would look for artifacts, and put new ones, where the project was.
    """
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    from mlflow.tracking import MlflowClient  # 3 to 7 seconds: only where something is tracked

    client, here = MlflowClient(address()), project_root().as_uri()
    for experiment in client.search_experiments() if is_local() else ():
        found = experiment.artifact_location.rpartition("/mlartifacts/")[0]
        ours = [experiment.experiment_id], f"tags.`{TAGS['key']}` LIKE '%'"
        if found not in ("", here) and client.search_runs(*ours, max_results=1):
            raise InputError(
                f"mlflow.db: got artifacts in {found}, expected {here}: the project moved. "
                "Delete mlflow.db and run `make track`"
            )
    return client


@contextmanager
def alone() -> Iterator[None]:
    """One writer of this project at a time: two that create a database, or a run, make two."""
    with FileLock(project_root() / "mlflow.db.lock"):
        yield


def reason(error: Exception) -> str:
    """An error's first line, without a password that stands in the store's address."""
    return str(error).partition("\n")[0].replace(address(), shown(address()))[:500]


class Store:
    """The experiment of a data set."""

    def __init__(self, dataset: str) -> None:
        self.dataset, self.client = dataset, opened()
        if known := self.client.get_experiment_by_name(dataset):
            self.experiment = known.experiment_id
            return
        local = address().startswith("sqlite:")  # else artifacts lie with the server
        folder = project_root() / "mlartifacts" / dataset
        self.experiment = self.client.create_experiment(
            dataset,
            artifact_location=folder.as_uri() if local else None,
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

        former: the method's runs before, whose names, descriptions and tags by users are kept.
        more: the `parent` and the `note`.
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag, Param

        title, key, kind = f"{record['method']} · {self.dataset}", record["key"], "run"
        params = flat(record["params"])
        if seed is not None:
            title, key, kind = f"{title} · seed {seed}", f"{key}-{seed}", "seed"
            params["seed"] = seed
            below = [child for run in former for child in self.find(parent=run.info.run_id)]
            former = [child for child in below if child.data.tags.get("seed") == str(seed)]
        own = {"key": key, "kind": kind, **more}.items()
        wanted = {**tags(record, seed), **{TAGS[name]: value for name, value in own if value}}
        wanted |= {WRITTEN: digest(wanted[NOTE])} if NOTE in wanted else {}
        wanted, name = wanted | {TITLE: title}, title
        for run in former:
            had, known = run.data.tags, {*wanted, "experiment"}
            wanted |= {k: v for k, v in had.items() if k not in known and not k.startswith(OURS)}
            earlier = NOTE in wanted and FILES in had and WRITTEN not in had
            if NOTE in had and had.get(WRITTEN) != digest(had[NOTE]) and not earlier:
                wanted[NOTE] = had[NOTE]
            if run.info.run_name != had.get(TITLE, title):
                name = run.info.run_name
        made = self.client.create_run(self.experiment, ended(record, 0), wanted, name)
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

    def set_status(self, run_id: str, status: str) -> None:
        """Set a run's status; a run that is not RUNNING ends now."""
        update = self.client.update_run if status == "RUNNING" else self.client.set_terminated
        update(run_id, status)

    def attach(self, run_id: str, files: Mapping[str, str]) -> None:
        """Keep texts as the run's artifacts, by their paths."""
        with TemporaryDirectory() as folder:
            for name, text in files.items():
                write_text(Path(folder) / name, text)
            if files:
                self.client.log_artifacts(run_id, folder)

    def whole(self, content: str, key: str, seeds: Collection[int]) -> str:
        """The id of the method's run of this digest with all these seeds, "" where there is none.
        Where there is, other runs of its key are deleted with these seeds: former ones, and those
        of a process that was killed, or that wrote the same at the same time. What else is below
        them comes under the one that is left."""
        names, same, others = {str(seed) for seed in seeds}, "", {}
        for run in self.find(key=key, kind="run"):
            run_id, children = run.info.run_id, self.find(parent=run.info.run_id)
            below = {child.info.run_id: child.data.tags.get("seed") for child in children}
            if not same and run.data.tags.get(DIGEST) == content and names <= {*below.values()}:
                same = str(run_id)
            else:
                others[run_id] = below
        for run_id, below in others.items() if same else ():
            for child, seed in below.items():
                if seed in names:
                    self.client.delete_run(child)
                else:
                    self.client.set_tag(child, PARENT, same)
            self.client.delete_run(run_id)
        return same


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
