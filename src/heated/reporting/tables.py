"""Tables of methods, a study a table: mean and 95 % interval in percent, n seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from heated.reporting.paper import published
from heated.reporting.results import Result

TITLES = {
    "map_at_r": "MAP@R",
    "r_precision": "R-precision",
    "nmi_geometric": "NMI, geometric",
    "nmi_arithmetic": "NMI, arithmetic",
    "ami": "AMI",
    "f1": "F1",
    "compactness": "compactness ↓",
    "spread": "spread",
}
STUDIES = {
    "run": "Main table",
    "alphas": "Constant alphas",
    "dimensions": "Alpha by the embedding's dimensions",
    "timing": "From which alpha to which, and when",
    "shapes": "Smooth schedules",
    "planes": "Two dimensions",
    "competitors": "Competitors, on equal terms",
}
LOWER = ("compactness",)  # is better
NEITHER = ("spread",)


@dataclass(frozen=True)
class Cell:
    """A metric of a method: shares in [0, 1]; `half` is half the interval's width, None for a
    single seed; `paper` is the paper's own number, where the run is by its protocol."""

    mean: float
    half: float | None
    best: bool
    paper: float | None

    def __str__(self) -> str:
        """Mean and half the interval's width in percent; the mean alone for a single seed.

        >>> str(Cell(0.7912, 0.01, best=True, paper=None)), str(Cell(0.7912, None, False, None))
        ('79.12 ± 1.00', '79.12')
        """
        return percent(self.mean) + ("" if self.half is None else f" ± {percent(self.half)}")


@dataclass(frozen=True)
class Row:
    """A method, its n, and its cells by metric."""

    method: str
    n: int
    cells: dict[str, Cell]


@dataclass(frozen=True)
class Table:
    """A study's methods on one data set; `metrics` are its columns, with their titles."""

    study: str
    metrics: dict[str, str]
    rows: list[Row]

    @property
    def title(self) -> str:
        """The study in words."""
        return STUDIES.get(self.study, self.study)


def percent(share: float) -> str:
    """A share in percent, to two places."""
    return f"{100 * share:.2f}"


def title(metric: str, summary: Mapping[str, Any] | None = None) -> str:
    """A metric's heading, with the engine that gave its numbers.

    >>> title("recall_at_10"), title("f1", {"engine": "lloyd"})
    ('R@10', 'F1 (lloyd)')
    """
    name = TITLES.get(metric, metric.replace("recall_at_", "R@"))
    return f"{name} ({summary['engine']})" if summary and "engine" in summary else name


def tables(
    results: Sequence[Result], studies: Mapping[str, Sequence[str]], section: Mapping[str, Any]
) -> list[Table]:
    """A table for each study, of its methods in their order. section: what params.yaml says of the
    data set, for the paper's numbers."""
    found = {result.method: result for result in results}
    return [
        table(study, [found[method] for method in methods], section)
        for study, methods in studies.items()
    ]


def table(study: str, results: Sequence[Result], section: Mapping[str, Any]) -> Table:
    """The results' metrics; what metrics rest on is left out. The best mean of each is marked."""
    first = results[0].metrics
    metrics = [name for name in first if "kmeans" not in name and name != "without_match"]
    best = {metric: most(metric, results) for metric in metrics}
    rows = [
        Row(
            result.method,
            len(result.history),
            {metric: cell(result, metric, best[metric], section) for metric in metrics},
        )
        for result in results
    ]
    return Table(study, {metric: title(metric, first[metric]) for metric in metrics}, rows)


def cell(result: Result, metric: str, best: float | None, section: Mapping[str, Any]) -> Cell:
    """A metric of a run."""
    summary = result.metrics[metric]
    low, high = summary["interval"] or (None, None)
    return Cell(
        mean=summary["mean"],
        half=None if low is None else (high - low) / 2,
        best=summary["mean"] == best,
        paper=published(result.record, section, metric),
    )


def most(metric: str, results: Sequence[Result]) -> float | None:
    """The best mean of a metric; None where more is neither better nor worse, or of one method."""
    means = [result.metrics[metric]["mean"] for result in results]
    if metric in NEITHER or len(means) < 2:
        return None
    return min(means) if metric in LOWER else max(means)
