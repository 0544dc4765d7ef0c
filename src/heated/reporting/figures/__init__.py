"""The report's figures: SVG text, a file a figure, each with what is to be seen in words."""

from collections.abc import Callable, Sequence

import matplotlib as mpl

from heated.reporting.figures import (
    alphas,
    costs,
    epochs,
    factorial,
    geometry,
    gradients,
    planes,
    shapes,
    timing,
)
from heated.reporting.figures.epochs import curves
from heated.reporting.figures.figure import STYLE, Figure
from heated.reporting.figures.selecting import Studies
from heated.reporting.results import Result

__all__ = ["Figure", "curves", "figures"]


def figures(results: Sequence[Result], studies: Studies) -> list[Figure]:
    """Those that can be drawn of the runs of one data set.

    studies: for each study, `run` among them, the methods that were trained on this data set.
    """
    with mpl.rc_context(STYLE):
        drawn = [figure(results, studies) for figure in FIGURES.values()]
    return [figure for figure in drawn if figure is not None]


FIGURES: dict[str, Callable[[Sequence[Result], Studies], Figure | None]] = {
    "curves": epochs.figure,
    "factorial": factorial.figure,
    "alphas": alphas.figure,
    "timing": timing.figure,
    "shapes": shapes.figure,
    "planes": planes.figure,
    "gradients": gradients.figure,
    "geometry": geometry.figure,
    "costs": costs.figure,
}
