"""Retrieval metrics of each test class, as the stage `evaluate` writes them."""

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from heated.common.io import require_output, wrap_damage

Numbers = NDArray[np.float64]
ClassScores = dict[int, dict[str, Numbers]]  # (C,) of each column, by seed


def read_class_scores(path: Path) -> ClassScores:
    """Return each seed's `label`, number of `queries` and metrics, (C,) each.

    Raises InputError if the file is damaged, or seeds have other classes.
    """
    rows: dict[int, list[dict[str, float]]] = {}
    require_output(path, "evaluate")
    with wrap_damage(path), path.open(encoding="utf-8", newline="") as file:
        for cells in csv.DictReader(file):
            seed = int(cells.pop("seed"))
            rows.setdefault(seed, []).append({key: float(cell) for key, cell in cells.items()})
        found = {
            seed: {key: np.array([row[key] for row in each]) for key in each[0]}
            for seed, each in rows.items()
        }
        first = next(iter(found.values()))
        for seed, columns in found.items():
            if not all(np.isfinite(column).all() for column in columns.values()):
                raise ValueError(f"seed {seed}: got NaN or infinity")
            if not np.array_equal(columns["label"], first["label"]):
                raise ValueError(f"seed {seed}: got other classes than for the first seed")
        return found
