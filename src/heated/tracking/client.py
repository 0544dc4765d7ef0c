"""MLflow's client: the store, its errors, and the runs of one experiment."""

import json
import os
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from hashlib import sha256
from typing import Any

from filelock import FileLock

from heated.common.errors import InputError, redact_url
from heated.common.io import project_root
from heated.tracking import Record, tracking_uri
from heated.tracking.metric_names import Points, flatten, run_tags

NOTE_TAG, PARENT_TAG = "mlflow.note.content", "mlflow.parentRunId"
TAGS = {"key": "heated.key", "kind": "heated.kind", "parent": PARENT_TAG}  # to find runs by
DIGEST_TAG = "heated.digest"  # the digest of a run's content; incomplete runs have none
NOTE_DIGEST_TAG = "heated.note"  # the digest of the note that this package wrote
TITLE_TAG = "heated.title"  # the name that this package gave a run
OLD_FILES_TAG = "heated.files"  # in earlier versions, whose notes have no NOTE_DIGEST_TAG
RESERVED = ("heated.", "mlflow.", "source.", "environment.")  # other tags may be users' own
LIBRARIES = ("alembic", "mlflow", "requests", "sqlalchemy", "sqlite3", "urllib3")  # MLflow's errors
MAX_BATCH = 1000  # metric values that MLflow accepts in one call
SETTINGS = {  # MLflow's own retries last minutes and may log the same values twice
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",  # seconds
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def is_local() -> bool:
    """Return whether the store is the project's own database."""
    return tracking_uri() == f"sqlite:///{project_root()}/mlflow.db"


@contextmanager
def wrap_mlflow_errors() -> Iterator[None]:
    """Raise errors of MLflow, its database or the connection as InputError with advice."""
    try:
        yield
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in LIBRARIES:
            raise
        advice = (
            "If it is damaged or of another MLflow version, delete mlflow.db and run `make track`."
            if is_local()
            else "Start the server or set MLFLOW_TRACKING_URI to another one, and run this again. "
            "It adds only missing runs."
        )
        raise InputError(
            f"MLflow at {redact_url(tracking_uri())}: {error_summary(error)}\n"
            f"{advice} HEATED_TRACKING=off runs without tracking."
        ) from error


def error_summary(error: Exception) -> str:
    """Return an error's first line, without a password in the store's address."""
    uri = tracking_uri()
    return str(error).partition("\n")[0].replace(uri, redact_url(uri))[:500]


@wrap_mlflow_errors()
def open_store() -> Any:
    """Return MLflow's client. Raises InputError if the project moved together with its database.

    MLflow keeps absolute paths, and would read and write artifacts in the former folder.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    from mlflow.tracking import MlflowClient  # takes 3 to 7 seconds

    client, here = MlflowClient(tracking_uri()), project_root().as_uri()
    for experiment in client.search_experiments() if is_local() else ():
        found = experiment.artifact_location.rpartition("/mlartifacts/")[0]
        our_runs = [experiment.experiment_id], f"tags.`{TAGS['key']}` LIKE '%'"
        if found not in ("", here) and client.search_runs(*our_runs, max_results=1):
            raise InputError(
                f"mlflow.db: got artifacts in {found}, expected {here}: the project moved. "
                "Delete mlflow.db and run `make track`."
            )
    return client


def store_lock() -> FileLock:
    """Return the lock of this project's writers: one at a time, so nothing is created twice."""
    return FileLock(project_root() / "mlflow.db.lock")


class Experiment:
    """The MLflow experiment of a data set, created if it is missing."""

    def __init__(self, dataset: str) -> None:
        self.dataset, self.client = dataset, open_store()
        if existing := self.client.get_experiment_by_name(dataset):
            self.id = existing.experiment_id
            return
        folder, tags = None, {"mlflow.experimentKind": "custom_model_development"}
        if tracking_uri().startswith("sqlite:"):  # a server keeps artifacts itself
            folder = (project_root() / "mlartifacts" / dataset).as_uri()
        self.id = self.client.create_experiment(dataset, folder, tags)

    def find_runs(self, **tags: str) -> list[Any]:
        """Return the runs with these tags, oldest first; `key` may end in %, SQL's wildcard."""
        query = " and ".join(
            f"tags.`{TAGS[name]}` {'LIKE' if value.endswith('%') else '='} '{value}'"
            for name, value in tags.items()
        )
        order = ["attributes.start_time", "attributes.run_id"]
        return list(self.client.search_runs([self.id], query, order_by=order))

    def create_run(
        self,
        record: Record,
        seed: int | None = None,
        *,
        former: Sequence[Any] = (),
        parent: str = "",
        note: str = "",
    ) -> str:
        """Create the run of a method or a seed with parameters and data set, and return its id.

        Users' edits of the `former` runs of the method, which this one replaces, are kept.
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag, Param

        title, key, kind = f"{record['method']} · {self.dataset}", record["key"], "run"
        params = flatten(record["params"])
        if seed is not None:
            title, key, kind = f"{title} · seed {seed}", f"{key}-{seed}", "seed"
            params["seed"] = seed
            children = [child for run in former for child in self.find_runs(parent=run.info.run_id)]
            former = [child for child in children if child.data.tags.get("seed") == str(seed)]
        tags = {**run_tags(record, seed), TAGS["key"]: key, TAGS["kind"]: kind, TITLE_TAG: title}
        tags |= {PARENT_TAG: parent} if parent else {}
        tags |= {NOTE_TAG: note, NOTE_DIGEST_TAG: content_digest(note)} if note else {}
        name, tags = keep_user_edits(tags, former)
        run_id = self.client.create_run(self.id, time_ms(record, 0), tags, name).info.run_id
        self.client.log_batch(run_id, params=[Param(k, str(v)) for k, v in params.items()])
        folder, digest = f"data/packed/{self.dataset}", record["data_sha256"][:36]
        source = json.dumps({"source": record["tags"]["dataset"], "dvc": folder})
        data = Dataset(self.dataset, digest, "dvc", source, profile=json.dumps(record["split"]))
        training = [InputTag("mlflow.data.context", "training")]
        self.client.log_inputs(run_id, [DatasetInput(data, training)])
        return str(run_id)

    def log_metrics(
        self, run_id: str, points: Points, record: Record, seconds: float | None
    ) -> None:
        """Log metrics at their epochs, timed by the `seconds` of training, or now if unknown."""
        from mlflow.entities import Metric

        now, epochs = int(1000 * time.time()), max(1, record["params"]["epochs"])
        metrics = [
            Metric(name, value, time_ms(record, seconds, (step + 1) / epochs) or now, step)
            for values, step in points
            for name, value in values.items()
            if value is not None
        ]
        for start in range(0, len(metrics), MAX_BATCH):
            self.client.log_batch(run_id, metrics=metrics[start : start + MAX_BATCH])

    def delete_duplicates(self, digest: str, key: str, seeds: Collection[int]) -> str:
        """Keep one complete run with this digest and return its id, "" if there is none.

        If there is one, other runs of its key are deleted with these seeds. They are former
        versions, or left by a process that was killed or wrote at the same time. Their other child
        runs move to the run that is kept.
        """
        names = {str(seed) for seed in seeds}
        runs = {str(run.info.run_id): run for run in self.find_runs(key=key, kind="run")}
        children = {run_id: self.find_runs(parent=run_id) for run_id in runs}
        complete = (
            run_id
            for run_id, run in runs.items()
            if run.data.tags.get(DIGEST_TAG) == digest
            and names <= {child.data.tags.get("seed") for child in children[run_id]}
        )
        kept = next(complete, "")
        if not kept:
            return ""
        for run_id in runs.keys() - {kept}:
            for child in children[run_id]:
                if child.data.tags.get("seed") not in names:
                    self.client.set_tag(child.info.run_id, PARENT_TAG, kept)
            self.client.delete_run(run_id)
        for child in self.find_runs(key=f"{key}-%", kind="seed"):  # of deleted runs, too
            if child.data.tags.get("seed") in names and child.data.tags.get(PARENT_TAG) != kept:
                self.client.delete_run(child.info.run_id)
        # Another machine that keeps another run may have deleted this one meanwhile.
        return kept if self.client.get_run(kept).info.lifecycle_stage == "active" else ""


def keep_user_edits(tags: Mapping[str, str], former: Sequence[Any]) -> tuple[str, dict[str, str]]:
    """Return a new run's name and tags, with users' names, notes and tags of the former runs."""
    name, kept = tags[TITLE_TAG], dict(tags)
    for run in former:
        old, ours = run.data.tags, {*kept, "experiment"}
        kept |= {k: v for k, v in old.items() if k not in ours and not k.startswith(RESERVED)}
        by_old_version = NOTE_TAG in kept and OLD_FILES_TAG in old and NOTE_DIGEST_TAG not in old
        unedited = old.get(NOTE_DIGEST_TAG) == content_digest(old.get(NOTE_TAG))
        if NOTE_TAG in old and not unedited and not by_old_version:
            kept[NOTE_TAG] = old[NOTE_TAG]
        if run.info.run_name != old.get(TITLE_TAG, tags[TITLE_TAG]):
            name = run.info.run_name
    return name, kept


def content_digest(content: Any) -> str:
    """Return the SHA-256 of a JSON value, in hexadecimal."""
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def time_ms(record: Record, seconds: float | None, share: float = 1) -> int | None:
    """Return when a share of `seconds` of training was over, in ms since 1970, None if unknown."""
    if seconds is None or record.get("started") is None:
        return None
    start = datetime.fromisoformat(record["started"]).timestamp()
    return int(1000 * (start + seconds * share))
