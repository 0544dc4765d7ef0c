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

from heated.common.io import project_root

Record = dict[str, Any]  # a run's provenance, with its `tags`, by which users group runs
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
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{project_root()}/mlflow.db"
