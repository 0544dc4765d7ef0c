"""The report's figures as SVG text, each with a text alternative."""

from collections.abc import Callable, Sequence

from heated.reporting.figures import embeddings_2d, final_recall, heating_pair, line_plots
from heated.reporting.figures.base import DescribedFigure, ReportFigure, report_style, svg_text
from heated.reporting.run_results import RunResult, Studies

# Title and function by name, in the order of the report.
FIGURES: dict[str, tuple[str, Callable[[Sequence[RunResult], Studies], DescribedFigure | None]]] = {
    "curves": ("Training curves", line_plots.draw_training_curves),
    "factorial": (
        "Lower alpha and lower learning rate, alone and together",
        final_recall.draw_factorial,
    ),
    "components": ("Test embeddings, alpha constant and heated", heating_pair.draw_components),
    "similarities": (
        "Similarity within and between classes, alpha constant and heated",
        heating_pair.draw_similarities,
    ),
    "alphas": ("Constant alphas", final_recall.draw_constant_alphas),
    "timing": ("Start, end and time of heating", final_recall.draw_heating_steps),
    "schedule_shapes": ("Shape of the schedule", line_plots.draw_schedule_shapes),
    "embeddings_2d": ("Embeddings in two dimensions", embeddings_2d.draw_embeddings),
    "gradients": ("Gradient norm by alpha", line_plots.draw_gradients),
    "geometry": ("Compactness and separation of the classes", line_plots.draw_class_geometry),
    "costs": ("Recall@1 and training time", final_recall.draw_training_costs),
}


def draw_figures(results: Sequence[RunResult], studies: Studies) -> list[ReportFigure]:
    """Draw all figures of one data set that its runs have the data for."""
    return [each for name in FIGURES if (each := draw_figure(name, results, studies))]


@report_style()
def draw_figure(name: str, results: Sequence[RunResult], studies: Studies) -> ReportFigure | None:
    """Draw one of FIGURES of one data set, None if the runs lack its data."""
    title, draw = FIGURES[name]
    if (drawn := draw(results, studies)) is None:
        return None
    description, figure = drawn
    return ReportFigure(name, title, description, svg_text(figure, title))
