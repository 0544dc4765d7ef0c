"""Read the files that the stages wrote for each run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from heated.common.history import Row, read_history
from heated.common.io import read_json, require_output

HEADLINE_METRICS = ("recall_at_1", "map_at_r", "nmi_geometric")  # shown by `dvc metrics`
Studies = Mapping[str, Sequence[str]]  # methods by study, `run` among them


@dataclass(frozen=True)
class RunResult:
    """The results of one method on one data set."""

    dataset: str
    method: str
    folder: Path  # with models and embeddings
    metrics: dict[str, Any]  # summary over the seeds, by metric
    history: dict[int, list[Row]]  # one row per epoch, by seed
    record: dict[str, Any]  # the run's provenance
    tuned: dict[str, Any] = field(default_factory=dict)  # how a competitor's settings were chosen

    @property
    def params(self) -> dict[str, Any]:
        """The settings of the training."""
        return self.record["params"]

    def values_by_seed(self) -> dict[str, dict[int, float]]:
        """Return each metric by seed, and the training `accuracy` of the last epoch if any."""
        ends = {seed: rows[-1] for seed, rows in self.history.items() if rows}
        last = {seed: row["accuracy"] for seed, row in ends.items() if "accuracy" in row}
        return ({"accuracy": last} if last else {}) | {
            name: {int(seed): value for seed, value in summary["seeds"].items()}
            for name, summary in self.metrics.items()
        }

    def curve(self, column: str) -> tuple[list[int], list[float]]:
        """Return the epochs that have the column, and its mean over the seeds in each."""
        values: dict[int, list[float]] = {}
        for rows in self.history.values():
            for row in rows:
                if column in row:
                    values.setdefault(int(row["epoch"]), []).append(row[column])
        return list(values), [sum(seeds) / len(seeds) for seeds in values.values()]

    def heating_epoch(self) -> int | None:
        """Return the first epoch with a smaller alpha than the epoch before, None if none has."""
        epochs, alphas = self.curve("alpha")
        pairs = zip(epochs[1:], alphas, alphas[1:], strict=False)
        return next((epoch for epoch, before, alpha in pairs if alpha < before), None)


def read_results(runs: Path, dataset: str, methods: Sequence[str]) -> list[RunResult]:
    """Read the runs of a data set, in the order of the methods."""
    found = []
    for folder in (runs / dataset / method for method in methods):
        metrics = read_json(require_output(folder / "metrics.json", "evaluate"))
        history = read_history(folder / "history.csv")
        record = read_json(require_output(folder / "provenance.json", "train"))
        tuned = read_json(folder / "tuned.json") if (folder / "tuned.json").exists() else {}
        found.append(RunResult(dataset, folder.name, folder, metrics, history, record, tuned))
    return found


def select_studies(results: Sequence[RunResult], studies: Studies, *names: str) -> list[RunResult]:
    """Return the runs of the named studies, in the order of `results`."""
    methods = {method for name in names for method in studies.get(name, ())}
    return [result for result in results if result.method in methods]


def half_width(summary: Mapping[str, Any]) -> float | None:
    """Return half the width of a metric's interval, None for a single seed."""
    interval = summary["interval"]
    return None if interval is None else (interval[1] - interval[0]) / 2


def headline_means(results: Sequence[RunResult]) -> dict[str, dict[str, float]]:
    """Return the means of the headline metrics, by method and metric."""
    return {
        r.method: {name: r.metrics[name]["mean"] for name in HEADLINE_METRICS if name in r.metrics}
        for r in results
    }


def curve_rows(results: Sequence[RunResult]) -> list[dict[str, Any]]:
    """Return one row per method and epoch with means over the seeds, for `dvc plots`."""
    found = []
    for result in results:
        rows: dict[int, dict[str, float]] = {}
        names = (name for each in result.history.values() for row in each for name in row)
        for column in dict.fromkeys(names):
            for epoch, value in zip(*result.curve(column), strict=True):
                rows.setdefault(epoch, {})[column] = value
        head = {"dataset": result.dataset, "method": result.method}
        found += [{**head, **rows[epoch], "epoch": epoch} for epoch in sorted(rows)]
    return found
