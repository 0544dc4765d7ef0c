"""The report's figures: SVG text, a file a figure, each with what is to be seen in words."""

from collections.abc import Callable, Sequence

from matplotlib import style

from heated.reporting.figures import final_recall, gradients, planes, training_curves
from heated.reporting.figures.base import STYLE, Drawing, Figure, Studies, svg
from heated.reporting.results import Result

__all__ = ["FIGURES", "Figure", "Studies", "figure", "figures"]

FIGURES: dict[str, tuple[str, Callable[[Sequence[Result], Studies], Drawing | None]]] = {
    "curves": ("Over the epochs", training_curves.curves),
    "factorial": (
        "Heat and the drop of the learning rate, apart and together",
        final_recall.factorial,
    ),
    "alphas": ("Constant alphas", final_recall.constant_alphas),
    "timing": ("From which alpha to which, and when", final_recall.timing),
    "shapes": ("The shape of the schedule", training_curves.shapes),
    "planes": ("Embeddings in two dimensions", planes.planes),
    "gradients": ("How strongly samples are pulled, by alpha", gradients.gradients),
    "geometry": ("How compact the classes are, and how far apart", training_curves.geometry),
    "costs": ("What accuracy costs", final_recall.against_seconds),
}


def figures(results: Sequence[Result], studies: Studies) -> list[Figure]:
    """Those that can be drawn of the runs of one data set.

    studies: for each study, `run` among them, the methods that were trained on this data set.
    """
    drawn = [figure(name, results, studies) for name in FIGURES]
    return [each for each in drawn if each is not None]


@style.context(STYLE)
def figure(name: str, results: Sequence[Result], studies: Studies) -> Figure | None:
    """One of FIGURES; None where the runs have nothing to draw."""
    title, draw = FIGURES[name]
    drawing = draw(results, studies)
    if drawing is None:
        return None
    description, sheet = drawing
    return Figure(name, title, description, svg(sheet, title))
