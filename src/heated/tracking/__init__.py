"""MLflow, in this folder only: what a run was and gave; to write it again adds nothing.

An experiment a data set, a parent run a method, a child run a seed. Runs are found by their key,
so equal training is one run in MLflow, however often and wherever it is published from.
`python -m heated.tracking` opens the pages.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heated.common.errors import without_secrets
from heated.common.io import project_root

shown = without_secrets
Record = dict[str, Any]  # a run's provenance, and `tags`: what runs are grouped by


@dataclass(frozen=True)
class Trained:
    """A run: its record, its id in MLflow, the folder of its seeds' models, its metrics as in
    metrics.json."""

    record: Record
    run_id: str
    models: Path
    metrics: Mapping[str, Mapping[str, Any]]


def wanted(enabled: bool) -> bool:
    """Whether to track: the parameter, unless HEATED_TRACKING=off."""
    return enabled and os.environ.get("HEATED_TRACKING", "on").lower() not in ("off", "0", "false")


def address() -> str:
    """MLFLOW_TRACKING_URI where it is set, else a database in the project's folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{project_root()}/mlflow.db"
