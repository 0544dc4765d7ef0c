"""Smooth schedules of alpha beside the paper's step: alpha and Recall@1 over the epochs."""

from collections.abc import Sequence

from matplotlib.figure import Figure as Canvas

from heated.reporting.figures.figure import Figure, canvas, svg
from heated.reporting.figures.looks import look, over_epochs
from heated.reporting.figures.recall import LABEL, half, numbers, point, told, within_bounds
from heated.reporting.figures.selecting import Studies, of_studies, schedule
from heated.reporting.results import Result

TITLE = "The shape of the schedule"


def figure(results: Sequence[Result], studies: Studies) -> Figure | None:
    """The runs of the study after those of the main methods that differ in the shape alone; None
    where the study was not run."""
    study = of_studies(results, studies, "shapes")
    if not study:
        return None
    steps = [
        result
        for result in of_studies(results, studies, "run")
        if result not in study and rest(result) == rest(study[0])
    ]
    shown = [*steps, *study]
    return Figure("shapes", TITLE, description(shown), svg(drawn(shown), TITLE))


def rest(result: Result) -> tuple[object, ...]:
    """All of a run's parameters but the shape: with alpha's two ends."""
    alpha = schedule(result, "alpha")
    others = {key: value for key, value in result.record["params"].items() if key != "alpha"}
    return alpha.get("start"), alpha.get("end"), others


def description(results: list[Result]) -> str:
    """Where each ends, with its interval."""
    ends = ", ".join(f"{r.method} ({schedule(r, 'alpha')['name']}) {ending(r)}" for r in results)
    return (
        f"Alpha and Recall@1 over the epochs, means of {numbers(results)}; at the right the final "
        f"Recall@1 with its 95 % interval (%): {ends}."
    )


def ending(result: Result) -> str:
    """The final mean with half of its interval's width."""
    width = half(result)
    return told(result) + ("" if width is None else f" ± {width:.2f}")


def drawn(results: Sequence[Result]) -> Canvas:
    """Alpha above, Recall@1 below; the final intervals beside the last epoch."""
    sheet = canvas(6.2)
    panels = sheet.subplot_mosaic(
        [["alpha", "alpha"], ["recall", "final"]], height_ratios=[2, 3], width_ratios=[4, 1]
    )
    panels["final"].sharey(panels["recall"])
    for index, result in enumerate(results):
        own = look(index, index)
        over_epochs(panels["alpha"], result, "alpha", own)
        over_epochs(panels["recall"], result, "recall_at_1", own)
        point(panels["final"], index, result, own)
    panels["alpha"].set(title="alpha = 1 / temperature", xlabel="epoch")
    panels["alpha"].set_yscale("log", base=2)
    panels["alpha"].yaxis.set_major_formatter("{x:g}")
    panels["recall"].set(title="Recall@1, unseen classes", xlabel="epoch", ylabel=LABEL)
    panels["final"].set(title="final", xticks=[], xlim=(-0.8, len(results) - 0.2))
    panels["final"].tick_params(labelleft=False)
    for axes in panels.values():
        axes.grid()
    within_bounds(panels["recall"])
    handles, labels = panels["alpha"].get_legend_handles_labels()
    sheet.legend(handles, labels, loc="outside lower center", ncols=2, handlelength=3.5)
    return sheet
