"""Histories of trainings: the rows of each seed, one per epoch, and who receives them."""

import csv
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Protocol

from heated.common.errors import InputError
from heated.common.io import require_output, wrap_damage, write_csv

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
    require_output(path, "train")
    with wrap_damage(path), path.open(encoding="utf-8", newline="") as file:
        for cells in csv.DictReader(file):
            seed = int(cells.pop("seed"))
            row = {key: float(cell) for key, cell in cells.items() if cell != ""}
            histories.setdefault(seed, []).append({**row, "epoch": int(cells["epoch"])})
        if not histories:
            raise ValueError("got no epochs")
    check_histories(path, histories, epochs)
    return histories


def add_system_metrics(history: History, metrics: dict[str, list[Row]]) -> History:
    """Return a history with the system metrics of the same seed and epoch in each row."""
    merged = {}
    for seed, rows in history.items():
        by_epoch = {row["epoch"]: row for row in metrics.get(str(seed), [])}
        merged[seed] = [{**row, **by_epoch.get(row["epoch"], {})} for row in rows]
    return merged
