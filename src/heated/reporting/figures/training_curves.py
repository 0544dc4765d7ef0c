"""Figures over the epochs: Recall@1, alpha and loss; compactness and spread; shapes of alpha."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes

from heated.reporting.figures.base import (
    NORMALISATIONS,
    RECALL,
    Drawing,
    Look,
    Studies,
    canvas,
    families,
    legend,
    look,
    looks,
    normalisation,
    numbers,
    of_studies,
    point,
    schedule,
    told,
    within_bounds,
)
from heated.reporting.results import Result

PANELS = {
    "recall_at_1": "Recall@1 (%), unseen classes",
    "alpha": "alpha = 1 / temperature",
    "loss": "training loss",
}
GEOMETRY = ("compactness", "spread")


def curves(results: Sequence[Result], studies: Studies) -> Drawing | None:
    """Recall@1, alpha and loss of the main methods; None where none was run."""
    shown = of_studies(results, studies, "run")
    if not shown:
        return None
    sheet, styles = canvas(6.8), looks(shown)
    panels = sheet.subplot_mosaic([["recall_at_1"] * 2, ["alpha", "loss"]], height_ratios=[3, 2])
    for column, axes in panels.items():
        for result in shown:
            over_epochs(axes, result, column, styles[result.method], dot=True)
        axes.set(title=PANELS[column], xlabel="epoch")
    powers_of_two(panels["alpha"])
    legend(sheet, shown)
    ends = ", ".join(f"{result.method} {told(result)}" for result in shown)
    moments = [(result.method, result.heated_at()) for result in shown]
    heated = ", ".join(f"{name} from epoch {at}" for name, at in moments if at is not None)
    return (
        f"Recall@1, alpha and training loss by epoch, means of {numbers(shown)}. Recall@1 ends "
        f"at (%): {ends}. A dot is the moment of heating: {heated or 'no method was heated'}."
    ), sheet


def over_epochs(axes: Axes, result: Result, column: str, look: Look, *, dot: bool = False) -> None:
    """The mean over seeds as a line, Recall@1 in percent; `dot`: with one at the first epoch after
    alpha fell, the moment of heating."""
    epochs, values = result.curve(column)
    heights = [100 * value for value in values] if column == "recall_at_1" else values
    every = max(1, len(epochs) // 8)
    axes.plot(epochs, heights, label=result.method, markevery=every, **look)
    heated = result.heated_at()
    if dot and heated is not None and heated <= max(epochs, default=-1):
        place = next(at for at in zip(epochs, heights, strict=True) if at[0] >= heated)
        axes.plot(*place, "o", color=look["color"], markersize=8, zorder=3)


def powers_of_two(axes: Axes) -> None:
    """Alpha on a logarithmic scale."""
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter("{x:g}")


def geometry(results: Sequence[Result], studies: Studies) -> Drawing | None:
    """How compact unseen classes are, and how far apart: a column a family, a row a quantity, of
    the main methods that normalise; None where none has the columns."""
    shown = [
        result
        for result in of_studies(results, studies, "run")
        if normalisation(result) in ("l2", "batch")
        and all(result.curve(column)[1] for column in GEOMETRY)
    ]
    if not shown:
        return None
    sheet, columns, styles = canvas(5.6), list(families(shown).values()), looks(shown)
    panels = sheet.subplots(2, len(columns), sharex=True, sharey="row", squeeze=False)
    for row, column in zip(panels, GEOMETRY, strict=True):
        row[0].set_ylabel(column)
        for axes, family in zip(row, columns, strict=True):
            for result in family:
                over_epochs(axes, result, column, styles[result.method], dot=True)
            for epoch in {result.heated_at() for result in family} - {None}:
                axes.axvline(epoch, color="black", linestyle=":", linewidth=1)
    for top, bottom, family in zip(*panels, columns, strict=True):
        top.set_title(NORMALISATIONS[normalisation(family[0])])
        bottom.set_xlabel("epoch")
    legend(sheet, shown)
    ends = [(r.method, *(r.curve(column)[1][-1] for column in GEOMETRY)) for r in shown]
    told = "; ".join(f"{name} {compact:.3f} and {spread:.3f}" for name, compact, spread in ends)
    return (
        "Compactness (0: every unseen class is a single point) and spread (0.5: classes at right "
        f"angles on average) over the epochs, means of {numbers(shown)}; a dot and a dotted "
        f"upright line are the moment of heating. At the end: {told}."
    ), sheet


def shapes(results: Sequence[Result], studies: Studies) -> Drawing | None:
    """Smooth schedules of alpha beside the main methods that differ in the shape alone: alpha and
    Recall@1 over the epochs, and its final intervals; None where the study was not run."""
    study = of_studies(results, studies, "shapes")
    if not study:
        return None
    main = [each for each in of_studies(results, studies, "run") if each not in study]
    shown = [*(each for each in main if rest(each) == rest(study[0])), *study]
    sheet = canvas(6.2)
    panels = sheet.subplot_mosaic(
        [["alpha", "alpha"], ["recall", "final"]], height_ratios=[2, 3], width_ratios=[4, 1]
    )
    panels["final"].sharey(panels["recall"])
    for index, result in enumerate(shown):
        over_epochs(panels["alpha"], result, "alpha", look(index, index))
        over_epochs(panels["recall"], result, "recall_at_1", look(index, index))
        point(panels["final"], index, result, look(index, index))
    panels["alpha"].set(title=PANELS["alpha"], xlabel="epoch")
    powers_of_two(panels["alpha"])
    panels["recall"].set(title="Recall@1, unseen classes", xlabel="epoch", ylabel=RECALL)
    panels["final"].set(title="final", xticks=[], xlim=(-0.8, len(shown) - 0.2))
    panels["final"].tick_params(labelleft=False)
    within_bounds(panels["recall"])
    lines = panels["alpha"].get_lines()
    sheet.legend(handles=lines, loc="outside lower center", ncols=2, handlelength=3.5)
    names = [(each.method, schedule(each, "alpha")["name"], told(each, " ")) for each in shown]
    ends = ", ".join(f"{method} ({shape}) {end}" for method, shape, end in names)
    return (
        f"Alpha and Recall@1 over the epochs, means of {numbers(shown)}; at the right the final "
        f"Recall@1 with its 95 % interval (%): {ends}."
    ), sheet


def rest(result: Result) -> tuple[Any, ...]:
    """All of a run's parameters but the shape: with alpha's two ends."""
    alpha = schedule(result, "alpha")
    others = {key: value for key, value in result.params.items() if key != "alpha"}
    return alpha.get("start"), alpha.get("end"), others
