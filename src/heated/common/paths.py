"""Paths of the stages' files, from data set and method as in dvc.yaml."""

from pathlib import Path
from typing import Any

from heated.common.errors import InputError
from heated.common.io import read_json, require_output

RESOLVED = Path("data/resolved")
RUNS = Path("runs")
# Settings that no output depends on, for stages that do not depend on the file.
SIDE_SETTINGS = "side_settings.json"


def raw_folder(dataset: str) -> Path:
    """Return the folder of a data set's archives."""
    return Path("data/raw") / dataset


def packed_folder(dataset: str) -> Path:
    """Return the folder of a packed data set."""
    return Path("data/packed") / dataset


def run_folder(dataset: str, method: str) -> Path:
    """Return the folder of a run: models, history, embeddings, metrics."""
    return RUNS / dataset / method


def load_settings(name: str) -> Any:
    """Return the settings in a file below data/resolved, or raise InputError if it is missing."""
    path = require_output(RESOLVED, "resolve") / name
    if not path.exists():
        known = ", ".join(sorted(each.stem for each in path.parent.glob("*.json"))) or "nothing"
        advice = "Name it in params.yaml or studies.yaml, and run `python -m stages.resolve`."
        message = f"{Path(name).parent}: got {path.stem!r}, expected one of {known}. {advice}"
        raise InputError(message)
    return read_json(path)


def load_run_settings(dataset: str) -> list[Any]:
    """Return the settings of all runs on a data set."""
    return [read_json(path) for path in sorted((RESOLVED / "runs" / dataset).glob("*.json"))]
