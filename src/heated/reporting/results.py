"""The files in the runs' folders, read for the report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from heated.common.history import Row, read_history
from heated.common.io import read_json, required

HEADLINE = ("recall_at_1", "map_at_r", "nmi_geometric")  # what dvc metrics shows


@dataclass(frozen=True)
class Result:
    """One run: `metrics` {name: summary}, `history` {seed: rows}, `record` its provenance, `tuned`
    how a competitor's settings were chosen, else empty; its other files are in `folder`."""

    dataset: str
    method: str
    folder: Path
    metrics: dict[str, Any]
    history: dict[int, list[Row]]
    record: dict[str, Any]
    tuned: dict[str, Any] = field(default_factory=dict)

    @property
    def params(self) -> dict[str, Any]:
        """The settings of the training."""
        return self.record["params"]

    def values(self) -> dict[str, dict[int, float]]:
        """Every metric's value by seed, and `accuracy`: that of the last epoch of training, which a
        loss that names no class has not."""
        ends = {seed: rows[-1] for seed, rows in self.history.items() if rows}
        last = {seed: row["accuracy"] for seed, row in ends.items() if "accuracy" in row}
        return ({"accuracy": last} if last else {}) | {
            name: {int(seed): value for seed, value in summary["seeds"].items()}
            for name, summary in self.metrics.items()
        }

    def curve(self, column: str) -> tuple[list[int], list[float]]:
        """Epochs, and the column's mean over the seeds in each; epochs without it are left out."""
        values: dict[int, list[float]] = {}
        for rows in self.history.values():
            for row in rows:
                if column in row:
                    values.setdefault(int(row["epoch"]), []).append(row[column])
        return list(values), [sum(seeds) / len(seeds) for seeds in values.values()]

    def heated_at(self) -> int | None:
        """The first epoch whose alpha is below that of the epoch before it; None if none is."""
        epochs, alphas = self.curve("alpha")
        pairs = zip(epochs[1:], alphas, alphas[1:], strict=False)
        return next((epoch for epoch, before, alpha in pairs if alpha < before), None)


def read_results(runs: Path, dataset: str, methods: Sequence[str]) -> list[Result]:
    """The configured runs of a data set, in the order of the methods; FileNotFoundError names the
    stage that makes a missing file."""
    found = []
    for folder in (runs / dataset / method for method in methods):
        metrics = read_json(required(folder / "metrics.json", "evaluate"))
        history = read_history(folder / "history.csv")
        record = read_json(required(folder / "provenance.json", "train"))
        tuned = read_json(folder / "tuned.json") if (folder / "tuned.json").exists() else {}
        found.append(Result(dataset, folder.name, folder, metrics, history, record, tuned))
    return found


def half_width(summary: Mapping[str, Any]) -> float | None:
    """Half the width of a metric's interval; None where one seed has no interval."""
    interval = summary["interval"]
    return None if interval is None else (interval[1] - interval[0]) / 2


def headlines(results: Sequence[Result]) -> dict[str, dict[str, float]]:
    """{method: {metric: mean}} of the few metrics that are compared at a glance."""
    return {
        r.method: {name: r.metrics[name]["mean"] for name in HEADLINE if name in r.metrics}
        for r in results
    }


def curve_rows(results: Sequence[Result]) -> list[dict[str, Any]]:
    """A row for each method and epoch of the seeds' mean history, for dvc plots."""
    found = []
    for result in results:
        rows: dict[int, dict[str, Any]] = {}
        names = (name for each in result.history.values() for row in each for name in row)
        for column in dict.fromkeys(names):
            for epoch, value in zip(*result.curve(column), strict=True):
                row = {"dataset": result.dataset, "method": result.method}
                rows.setdefault(epoch, row)[column] = value
        found += [{**rows[epoch], "epoch": epoch} for epoch in sorted(rows)]
    return found
