"""Read and write files, as a whole: a temporary name, then a rename; and the stages' paths."""

import csv
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import psutil
from numpy.typing import ArrayLike, NDArray

from heated.common.errors import InputError

MIB = 2**20  # bytes


def project_root() -> Path:
    """Return DVC_ROOT, which is set in DVC's temporary copies too, or the current folder."""
    return Path(os.environ.get("DVC_ROOT", ".")).resolve()


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path, which is renamed to `path` at the end, or removed on an error.

    The block may write a file or a folder; a folder replaces an existing one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    for part in path.parent.glob(f".{path.name}.*.part"):  # of killed processes
        if part == temporary or not psutil.pid_exists(int(part.name.split(".")[-2])):
            remove(part)
    try:
        yield temporary
        if temporary.is_dir() and path.is_dir():
            shutil.rmtree(path)
        temporary.replace(path)
    finally:
        remove(temporary)


def remove(path: Path) -> None:
    """Delete a file or folder if it exists."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def require_output(path: Path, stage: str) -> Path:
    """Return `path`, or raise FileNotFoundError with the stage that writes it."""
    if not path.exists():
        command = f"dvc repro, or dvc repro -s {stage}"
        raise FileNotFoundError(f"{path} is missing: the stage '{stage}' makes it ({command})")
    return path


def sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON; raise ValueError for NaN and infinity, which JSON does not have."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def read_json(path: Path) -> Any:
    """Return the value in a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, with unchanged line ends on every platform."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a header with every key of the rows, in order of first use, and one line per row."""
    text = io.StringIO()
    columns = dict.fromkeys(key for row in rows for key in row)
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def write_arrays(path: Path, **arrays: ArrayLike) -> None:
    """Write named arrays as .npz, without pickle."""
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Return every array of an .npz file; raise ValueError if it contains pickled objects."""
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


# Names in files of earlier versions, and their names now.
FORMER_KEYS = {
    "normalise": "normalize",
    "shift": "translate",
    "probability": "p",
    "smallest": "min_scale",
    "aspect": "max_ratio",
    "colour": "color_mode",
}
FORMER_VALUES: dict[Any, str] = {
    ("denominator", "others"): "negatives_only",
    ("color_mode", "grey"): "gray",
}


def with_current_names(settings: Any) -> Any:
    """Return settings that an earlier version wrote with the names of this one.

    >>> with_current_names({"colour": "grey", "augment": [{"name": "flip", "probability": 0.5}]})
    {'color_mode': 'gray', 'augment': [{'name': 'flip', 'p': 0.5}]}
    """
    if isinstance(settings, list):
        return [with_current_names(each) for each in settings]
    if not isinstance(settings, dict):
        return settings
    items = [(FORMER_KEYS.get(k, k), with_current_names(v)) for k, v in settings.items()]
    return {k: FORMER_VALUES.get((k, v), v) if isinstance(v, str) else v for k, v in items}


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


Row = dict[str, float]
History = dict[int, list[Row]]  # the rows of each seed


class Logger(Protocol):
    """Receives the rows of a run during training."""

    def log(self, seed: int, row: Row) -> None:
        """Receive a seed's row after its epoch; a resumed training logs earlier rows again."""


class NullLogger:
    """A logger that drops every row."""

    def log(self, seed: int, row: Row) -> None:
        """Drop the row."""


def write_history(path: Path, histories: Mapping[int, Sequence[Row]]) -> None:
    """Write CSV with columns seed, epoch and all other keys; missing keys are empty cells."""
    check_histories(path, histories)
    write_csv(path, [{"seed": seed, **row} for seed, rows in histories.items() for row in rows])


def check_histories(
    path: Path, histories: Mapping[int, Sequence[Row]], epochs: int | None = None
) -> None:
    """Raise InputError unless every seed has finite values in all epochs, as many as the first."""
    lengths = [len(rows) for rows in histories.values()] or [0]
    expected = lengths[0] if epochs is None else epochs
    advice = "Delete it and run `dvc repro`, which runs the stage 'train' again."
    for seed, rows in histories.items():
        found = [row["epoch"] for row in rows]
        if found != [*range(expected)]:
            problem = f"seed {seed}: got epochs {found}, expected 0 to {expected - 1}"
            raise InputError(f"{path}: {problem}. {advice}")
        bad = [f"{key} {row[key]}" for row in rows for key in row if not isfinite(row[key])]
        if bad:
            problem = f"seed {seed}: got {', '.join(bad)}, expected finite numbers"
            raise InputError(f"{path}: {problem}. {advice}")
    if not expected or not histories:
        raise InputError(f"{path}: got no epochs, expected those of every seed. {advice}")


def read_history(path: Path, epochs: int | None = None) -> History:
    """Return the rows of each seed: epochs as int, other values as float, no empty cells.

    Raises InputError if a seed lacks epochs or values are not finite; see `check_histories`.
    """
    histories: History = {}
    with require_output(path, "train").open(encoding="utf-8", newline="") as file:
        for cells in csv.DictReader(file):
            seed = int(cells.pop("seed"))
            row = {key: float(cell) for key, cell in cells.items() if cell != ""}
            histories.setdefault(seed, []).append({**row, "epoch": int(cells["epoch"])})
    check_histories(path, histories, epochs)
    return histories


def add_system_metrics(history: History, metrics: dict[str, list[Row]]) -> History:
    """Return a history with the system metrics of the same seed and epoch in each row."""
    merged = {}
    for seed, rows in history.items():
        by_epoch = {row["epoch"]: row for row in metrics.get(str(seed), [])}
        merged[seed] = [{**row, **by_epoch.get(row["epoch"], {})} for row in rows]
    return merged
