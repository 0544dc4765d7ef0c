"""How compact unseen classes are, and how far apart, over the epochs."""

from collections.abc import Sequence

from matplotlib.figure import Figure as Canvas

from heated.reporting.figures.figure import Figure, canvas, svg
from heated.reporting.figures.looks import (
    NORMALISATIONS,
    families,
    legend,
    looks,
    moment,
    normalisation,
    over_epochs,
)
from heated.reporting.figures.recall import numbers
from heated.reporting.figures.selecting import Studies, of_studies
from heated.reporting.results import Result

ROWS = {"compactness": "compactness", "spread": "spread"}
TITLE = "How compact the classes are, and how far apart"


def figure(results: Sequence[Result], studies: Studies) -> Figure | None:
    """The main methods that normalise; None where none has the columns."""
    shown = [
        result
        for result in of_studies(results, studies, "run")
        if normalisation(result) in ("l2", "batch")
        and all(result.curve(column)[1] for column in ROWS)
    ]
    if not shown:
        return None
    return Figure("geometry", TITLE, description(shown), svg(drawn(shown), TITLE))


def description(results: Sequence[Result]) -> str:
    """Where each method ends."""
    ends = "; ".join(
        f"{r.method} {r.curve('compactness')[1][-1]:.3f} and {r.curve('spread')[1][-1]:.3f}"
        for r in results
    )
    return (
        "Compactness (0: every unseen class is a single point) and spread (0.5: classes at right "
        f"angles on average) over the epochs, means of {numbers(results)}; a dot and a dotted "
        f"upright line are the moment of heating. At the end: {ends}."
    )


def drawn(results: Sequence[Result]) -> Canvas:
    """A column a family, a row a quantity."""
    sheet, columns, shown = canvas(5.6), list(families(results).values()), looks(results)
    panels = sheet.subplots(len(ROWS), len(columns), sharex=True, sharey="row", squeeze=False)
    for row, (column, heading) in zip(panels, ROWS.items(), strict=True):
        row[0].set_ylabel(heading)
        for axes, family in zip(row, columns, strict=True):
            axes.grid()
            for result in family:
                over_epochs(axes, result, column, shown[result.method])
                moment(axes, result, column, shown[result.method])
            for epoch in {r.heated_at() for r in family} - {None}:
                axes.axvline(epoch, color="black", linestyle=":", linewidth=1)
    for axes, family in zip(panels[0], columns, strict=True):
        axes.set_title(NORMALISATIONS[normalisation(family[0])])
    for axes in panels[-1]:
        axes.set_xlabel("epoch")
    legend(sheet, results)
    return sheet
