"""Training histories: one row per seed and epoch, logged during training and stored as CSV."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from heated.common.io import require_output, write_csv

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
    write_csv(path, [{"seed": seed, **row} for seed, rows in histories.items() for row in rows])


def read_history(path: Path) -> History:
    """Return the rows of each seed: epochs as int, other values as float, no empty cells."""
    histories: History = {}
    with require_output(path, "train").open(encoding="utf-8", newline="") as file:
        for cells in csv.DictReader(file):
            seed = int(cells.pop("seed"))
            row = {key: float(cell) for key, cell in cells.items() if cell != ""}
            histories.setdefault(seed, []).append({**row, "epoch": int(cells["epoch"])})
    return histories


def add_system_metrics(history: History, metrics: dict[str, list[Row]]) -> History:
    """Return a history with the system metrics of the same seed and epoch in each row."""
    merged = {}
    for seed, rows in history.items():
        by_epoch = {row["epoch"]: row for row in metrics.get(str(seed), [])}
        merged[seed] = [{**row, **by_epoch.get(row["epoch"], {})} for row in rows]
    return merged
