"""Publish runs to MLflow. Only this folder and `search` use it.

Each data set has an experiment, each method a parent run, and each seed a child run. A run is found
by the key of its training, so publishing the same training again adds nothing, from any machine.
`python -m heated.tracking` opens MLflow's pages.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heated.common.errors import InputError
from heated.common.io import project_root

Record = dict[str, Any]  # a run's provenance, with its `tags`, by which users group runs
KEY_TAG = "heated.key"  # identifies a training
Summaries = Mapping[str, Mapping[str, Any]]  # by metric name, as in metrics.json


@dataclass(frozen=True)
class PublishedRun:
    """A method's run in MLflow, with the folder of its seeds' models."""

    record: Record
    run_id: str
    models: Path
    metrics: Summaries


def is_tracking_enabled(enabled: bool) -> bool:
    """Return whether to track: as params.yaml says, unless HEATED_TRACKING=off."""
    return enabled and os.environ.get("HEATED_TRACKING", "on").lower() not in ("off", "0", "false")


def tracking_uri() -> str:
    """Return MLFLOW_TRACKING_URI if set, else the address of a database in the project's folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or local_uri()


def local_uri() -> str:
    """Return the address of the database in the project's folder."""
    return sqlite_uri(project_root() / "mlflow.db")


def sqlite_uri(path: Path) -> str:
    """Return the address of an SQLite file.

    Addresses quote `%` and `?` in different ways in versions of SQLAlchemy. The relative path does
    not have them, as long as the current folder is in the project.
    """
    if {"%", "?"} & {*str(path)}:
        path = Path(os.path.relpath(path))
    if {"%", "?"} & {*str(path)}:
        message = f"{path}: MLflow cannot open a database in a folder with % or ? in its name."
        raise InputError(f"{message} Run this in the project's folder, or rename it.")
    return f"sqlite:///{path}"


def experiment_name(record: Record) -> str:
    """Return the name of the DVC experiment that runs, else of the one that trained, or ""."""
    return os.environ.get("DVC_EXP_NAME") or record["source"].get("experiment") or ""
