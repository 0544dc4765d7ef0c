"""Heat by drop of the learning rate: the control that the paper lacks, with every seed."""

from collections.abc import Sequence
from math import nan

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from heated.reporting.figures.figure import Figure, canvas, svg
from heated.reporting.figures.looks import NORMALISATIONS, families, looks, normalisation
from heated.reporting.figures.recall import (
    LABEL,
    mean,
    numbers,
    point,
    seeds,
    told,
    within_bounds,
)
from heated.reporting.figures.selecting import Studies, of_studies
from heated.reporting.results import Result

CELLS = {  # whether alpha falls, and whether the learning rate does
    (False, False): "neither",
    (False, True): "lr drop",
    (True, False): "heat",
    (True, True): "both",
}
TITLE = "Heat and the drop of the learning rate, apart and together"


def figure(results: Sequence[Result], studies: Studies) -> Figure | None:
    """The families of the main methods that have all four; None where none has."""
    crossings = crossed(of_studies(results, studies, "run"))
    if not crossings:
        return None
    return Figure("factorial", TITLE, description(crossings), svg(drawn(crossings), TITLE))


def crossed(results: Sequence[Result]) -> list[list[Result]]:
    """Of each normalisation the runs of the four CELLS, the first of each, where it has all."""
    found = []
    for family in families(results).values():
        cells: dict[tuple[bool, bool], Result] = {}
        for result in family:
            if falls(result, "alpha") is not None and not smoothed(result):
                cells.setdefault((bool(falls(result, "alpha")), bool(falls(result, "lr"))), result)
        if cells.keys() == CELLS.keys():
            found.append([cells[cell] for cell in CELLS])
    return found


def smoothed(result: Result) -> bool:
    """Whether labels are smoothed, which is no part of the comparison."""
    return bool(result.record["params"].get("label_smoothing"))


def falls(result: Result, column: str) -> bool | None:
    """Whether a column of the history ends below its beginning; None where there is none."""
    _, values = result.curve(column)
    return values[-1] < values[0] if values else None


def description(crossings: Sequence[Sequence[Result]]) -> str:
    """The means of each family, and what heat adds to the drop."""
    sentences = []
    for runs in crossings:
        pairs = zip(CELLS.values(), runs, strict=True)
        cells = ", ".join(f"{cell} {told(run)} ({run.method})" for cell, run in pairs)
        family, added = NORMALISATIONS[normalisation(runs[0])], mean(runs[3]) - mean(runs[1])
        sentences.append(f"With {family}: {cells}; heat adds {added:+.2f} to the drop alone.")
    every = [run for runs in crossings for run in runs]
    return (
        f"Recall@1 (%), means of {numbers(every)} with 95 % intervals; thin lines join the runs "
        f"of a seed. {' '.join(sentences)}"
    )


def drawn(crossings: Sequence[Sequence[Result]]) -> Canvas:
    """A panel a family."""
    sheet = canvas(4)
    panels = sheet.subplots(1, len(crossings), sharey=True, squeeze=False)[0]
    for axes, runs in zip(panels, crossings, strict=True):
        paired_seeds(axes, runs)
        for x, run in enumerate(runs):
            point(axes, x + 0.2, run, looks(runs)[runs[0].method], linewidth=2)
        names = zip(CELLS.values(), runs, strict=True)
        labels = [f"{cell}\n{run.method}\n{told(run)}" for cell, run in names]
        axes.set_xticks(range(4), labels)
        axes.set(title=NORMALISATIONS[normalisation(runs[0])], xlim=(-0.4, 3.6))
        axes.grid(axis="y")
    within_bounds(panels[0])  # the others share its axis, and are drawn by now
    panels[0].set_ylabel(LABEL)
    return sheet


def paired_seeds(axes: Axes, runs: Sequence[Result]) -> None:
    """A thin line through the values of each seed."""
    values = [seeds(run) for run in runs]
    for seed in dict.fromkeys(seed for each in values for seed in each):
        heights = [each.get(seed, nan) for each in values]
        axes.plot(range(4), heights, ".-", color="#999999", linewidth=0.8, gid=f"seed-{seed}")
