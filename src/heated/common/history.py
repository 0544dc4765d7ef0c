"""Training histories: a row for each seed and epoch, logged while training and stored as CSV."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from heated.common.io import required, write_csv

Row = dict[str, float]


class Logger(Protocol):
    """Receives the rows of a run while it is trained."""

    def log(self, seed: int, row: Row) -> None:
        """Receive a seed's row after its epoch; rows trained before come again at the start."""


class NullLogger:
    """A logger that drops every row."""

    def log(self, seed: int, row: Row) -> None:
        """Drop the row."""


def write_history(path: Path, histories: Mapping[int, Sequence[Row]]) -> None:
    """Columns seed, epoch, and the rest of the rows' keys; empty where a row lacks one."""
    write_csv(path, [{"seed": seed, **row} for seed, rows in histories.items() for row in rows])


def read_history(path: Path) -> dict[int, list[Row]]:
    """The rows of each seed, epochs as int, the rest as float; empty cells are left out."""
    histories: dict[int, list[Row]] = {}
    with required(path, "train").open(encoding="utf-8", newline="") as file:
        for cells in csv.DictReader(file):
            seed = int(cells.pop("seed"))
            row = {key: float(cell) for key, cell in cells.items() if cell != ""}
            histories.setdefault(seed, []).append({**row, "epoch": int(cells["epoch"])})
    return histories


def joined(history: dict[int, list[Row]], usage: dict[str, list[Row]]) -> dict[int, list[Row]]:
    """The rows of a history, each with what was measured beside it."""
    found = {}
    for seed, rows in history.items():
        beside = {row["epoch"]: row for row in usage.get(str(seed), [])}
        found[seed] = [{**row, **beside.get(row["epoch"], {})} for row in rows]
    return found
