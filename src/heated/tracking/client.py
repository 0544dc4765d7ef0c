"""The runs of one MLflow experiment.

A run belongs to a workspace, which is a project's folder on a machine, and to a DVC experiment.
Runs with another owner are never changed.
"""

import json
import os
import platform
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any

from heated.common.errors import InputError
from heated.common.io import project_root
from heated.tracking import KEY_TAG, Record, tracking_uri
from heated.tracking.metric_names import Points, run_params, run_tags
from heated.tracking.store import open_store, store_address

NOTE_TAG, PARENT_TAG = "mlflow.note.content", "mlflow.parentRunId"
TAGS = {"key": KEY_TAG, "kind": "heated.kind", "parent": PARENT_TAG}  # to find runs by
OWNER_TAG = "heated.owner"  # workspace and DVC experiment of a run; earlier versions have none
DATASET_TAG = "heated.dataset"  # of an experiment, which users may rename
DIGEST_TAG = "heated.digest"  # the digest of a run's content; incomplete runs have none
NOTE_DIGEST_TAG = "heated.note"  # the digest of the note that this package wrote
TITLE_TAG = "heated.title"  # the name that this package gave a run
OLD_FILES_TAG = "heated.files"  # in earlier versions, whose notes have no NOTE_DIGEST_TAG
RESERVED = ("heated.", "mlflow.", "source.", "environment.")  # other tags may be users' own
MAX_BATCH = 1000  # metric values that MLflow accepts in one call
WORKSPACE = "HEATED_WORKSPACE"  # variable with the workspace whose runs a worker trains
YIELD_WAITS = (0, 0.5, 1, 2)  # seconds in which a later one of two equal runs deletes itself


class Experiment:
    """The MLflow experiment of a data set, created if it is missing.

    `name` is the DVC experiment's, "" outside one.
    """

    def __init__(self, dataset: str, name: str = "") -> None:
        self.dataset, self.name, self.client = dataset, name, open_store()
        self.owner = f"{workspace()} {name}".strip()
        query = f"tags.`{DATASET_TAG}` = '{dataset}'"
        renamed = self.client.search_experiments(filter_string=query, order_by=["creation_time"])
        existing = self.client.get_experiment_by_name(dataset)
        if existing is None or existing.lifecycle_stage == "deleted" or len(renamed) == 1:
            existing = renamed[0] if renamed else existing
        self.id = self.create() if existing is None else existing.experiment_id
        if not self.id:
            raise InputError(f"MLflow at {store_address()}: got no id, expected an MLflow server.")
        if existing is not None and existing.lifecycle_stage == "deleted":
            raise InputError(self.deleted_message())
        if existing is not None and existing.tags.get(DATASET_TAG) != dataset:
            self.client.set_experiment_tag(self.id, DATASET_TAG, dataset)

    def create(self) -> str:
        """Create the experiment and return its id."""
        tags = {"mlflow.experimentKind": "custom_model_development", DATASET_TAG: self.dataset}
        folder = None
        if tracking_uri().startswith("sqlite:"):  # a server keeps artifacts itself
            folder = (project_root() / "mlartifacts" / self.dataset).as_uri()
        return str(self.client.create_experiment(self.dataset, folder, tags))

    def deleted_message(self) -> str:
        """Return how to get a deleted experiment back, or a new one."""
        command = f"MLFLOW_TRACKING_URI={store_address()} mlflow"
        return (
            f"MLflow experiment {self.dataset!r}: it was deleted in MLflow. To restore it: "
            f"`{command} experiments restore --experiment-id {self.id}`. To delete it for good: "
            f"`{command} gc --backend-store-uri {store_address()} --experiment-ids {self.id}`. "
            "Then run `make track`."
        )

    def is_own(self, entity: Any) -> bool:
        """Return whether a run is of this workspace and DVC experiment."""
        tags = entity.data.tags
        if OWNER_TAG in tags:
            return bool(tags[OWNER_TAG] == self.owner)
        return bool(tags.get("experiment", "") == self.name)  # of an earlier version

    def find_runs(self, **tags: str) -> list[Any]:
        """Return the runs with these tags, oldest first; `key` may end in %, SQL's wildcard."""
        query = " and ".join(
            f"tags.`{TAGS[name]}` {'LIKE' if value.endswith('%') else '='} '{value}'"
            for name, value in tags.items()
        )
        order = ["attributes.start_time", "attributes.run_id"]
        return list(self.client.search_runs([self.id], query, order_by=order))

    def find_own(self, key: str, kind: str) -> list[Any]:
        """Return this workspace's and DVC experiment's runs with a key, oldest first."""
        return [run for run in self.find_runs(key=key, kind=kind) if self.is_own(run)]

    def title(self, subject: str) -> str:
        """Return a run's name; the names of runs of DVC experiments have the experiment's."""
        return " · ".join(filter(None, [subject, self.dataset, self.name]))

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

        title, key, kind = self.title(record["method"]), record["key"], "run"
        params = run_params(record)
        if seed is not None:
            title, key, kind = f"{title} · seed {seed}", f"{key}-{seed}", "seed"
            params["seed"] = seed
            children = [child for run in former for child in self.find_runs(parent=run.info.run_id)]
            former = [child for child in children if child.data.tags.get("seed") == str(seed)]
        tags = {**run_tags(record, seed), TAGS["key"]: key, TAGS["kind"]: kind, TITLE_TAG: title}
        tags[OWNER_TAG] = self.owner
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

    def equal_runs(self, digest: str, key: str, seeds: Collection[int]) -> list[Any]:
        """Return the complete runs with this digest, of every workspace, oldest first."""
        names = {str(seed) for seed in seeds}
        runs = self.find_runs(key=key, kind="run")
        equal = [run for run in runs if run.data.tags.get(DIGEST_TAG) == digest]
        children = {run.info.run_id: self.find_runs(parent=run.info.run_id) for run in equal}
        return [run for run in equal if names <= seed_names(children[run.info.run_id])]

    def delete_duplicates(self, digest: str, key: str, seeds: Collection[int]) -> str:
        """Keep one complete run with this digest and return its id, "" if there is none.

        If it is this workspace's, other runs of its key are deleted with these seeds. They are
        former versions, or left by a process that was killed. Their other child runs move to the
        run that is kept. A run of another workspace counts where this one has no run at all.
        """
        names = {str(seed) for seed in seeds}
        equal, runs = self.equal_runs(digest, key, seeds), self.find_own(key, "run")
        kept = next((str(run.info.run_id) for run in equal if self.is_own(run)), "")
        if not kept:
            return "" if runs or not equal else str(equal[0].info.run_id)
        for run_id in {run.info.run_id for run in runs} - {kept}:
            for child in self.find_runs(parent=run_id):
                if child.data.tags.get("seed") not in names:
                    self.client.set_tag(child.info.run_id, PARENT_TAG, kept)
            self.client.delete_run(run_id)
        for child in self.find_own(f"{key}-%", "seed"):  # of deleted runs, too
            if child.data.tags.get("seed") in names and child.data.tags.get(PARENT_TAG) != kept:
                self.client.delete_run(child.info.run_id)
        # Somebody may have deleted it meanwhile.
        return kept if self.client.get_run(kept).info.lifecycle_stage == "active" else ""

    def yield_to_equal(self, run_id: str, digest: str, key: str, seeds: Collection[int]) -> str:
        """Keep one of equal runs that workspaces published at the same time, and return its id.

        The first in order stays, and each workspace deletes only its own run. If a later one stays
        as well, its workspace did not see this run, which is then deleted.
        """
        for wait in YIELD_WAITS:
            time.sleep(wait)
            equal = [str(run.info.run_id) for run in self.equal_runs(digest, key, seeds)]
            others = [each for each in equal if each != run_id]
            if not others:
                return run_id
            if equal[0] != run_id:
                break
        for child in self.find_runs(parent=run_id):
            self.client.delete_run(child.info.run_id)
        self.client.delete_run(run_id)
        return others[0]


def workspace() -> str:
    """Return the id of this workspace, or of the one for which a cluster's worker trains."""
    here = [platform.node(), str(project_root())]
    return os.environ.get(WORKSPACE) or content_digest(here)[:12]


def seed_names(runs: Iterable[Any]) -> set[str | None]:
    """Return the seeds of child runs."""
    return {run.data.tags.get("seed") for run in runs}


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
