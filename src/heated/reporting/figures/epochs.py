"""Recall@1, alpha and training loss over the epochs, a line a method."""

from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.figure import Figure as Canvas

from heated.reporting.figures.figure import STYLE, Figure, canvas, svg
from heated.reporting.figures.looks import legend, looks, moment, over_epochs
from heated.reporting.figures.recall import numbers, told
from heated.reporting.figures.selecting import Studies, of_studies
from heated.reporting.results import Result

PANELS = {
    "recall_at_1": "Recall@1 (%), unseen classes",
    "alpha": "alpha = 1 / temperature",
    "loss": "training loss",
}
TITLE = "Over the epochs"


def figure(results: Sequence[Result], studies: Studies) -> Figure | None:
    """The main methods; None where none was run."""
    shown = of_studies(results, studies, "run")
    return Figure("curves", TITLE, description(shown), curves(shown)) if shown else None


def description(results: list[Result]) -> str:
    """Where the curves end, and when they were heated."""
    ends = ", ".join(f"{result.method} {told(result)}" for result in results)
    moments = [(r.method, r.heated_at()) for r in results]
    heated = ", ".join(f"{name} from epoch {at}" for name, at in moments if at is not None)
    return (
        f"Recall@1, alpha and training loss by epoch, means of {numbers(results)}. Recall@1 ends "
        f"at (%): {ends}. A dot is the moment of heating: {heated or 'no method was heated'}."
    )


def curves(results: Sequence[Result]) -> str:
    """SVG text; a dot is the first epoch after alpha fell: the moment of heating."""
    with mpl.rc_context(STYLE):
        return svg(drawn(results), TITLE)


def drawn(results: Sequence[Result]) -> Canvas:
    """A panel a quantity and a line a method, the mean over seeds."""
    sheet = canvas(6.8)
    panels = sheet.subplot_mosaic([["recall_at_1"] * 2, ["alpha", "loss"]], height_ratios=[3, 2])
    shown = looks(results)
    for column, axes in panels.items():
        for result in results:
            over_epochs(axes, result, column, shown[result.method])
            moment(axes, result, column, shown[result.method])
        axes.set(title=PANELS[column], xlabel="epoch")
        axes.grid()
    panels["alpha"].set_yscale("log", base=2)
    panels["alpha"].yaxis.set_major_formatter("{x:g}")
    legend(sheet, results)
    return sheet
