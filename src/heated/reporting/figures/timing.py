"""Recall@1 by start alpha, end alpha and moment of heating: a map for each moment."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure as Canvas

from heated.reporting.figures.figure import Figure, canvas, svg
from heated.reporting.figures.looks import normalisation
from heated.reporting.figures.recall import half, mean, numbers, told
from heated.reporting.figures.selecting import Studies, heating, of_studies
from heated.reporting.results import Result

TITLE = "From which alpha to which, and when"
COLOURS = "cividis"  # its lightness rises evenly, so that it is a scale of greys too
A_ROW = 3  # maps
Heated = dict[tuple[float, float, float], Result]  # by start, end, moment


def figure(results: Sequence[Result], studies: Studies) -> Figure | None:
    """The runs of the study, and those of the main methods that are heated alike; None without."""
    study = of_studies(results, studies, "timing")
    found: Heated = {}
    for result in of_studies(results, studies, "run", "timing"):
        place = heating(result)
        if study and place and normalisation(result) == normalisation(study[0]):
            found.setdefault(place, result)
    if not found:
        return None
    return Figure("timing", TITLE, description(found), svg(drawn(found), TITLE))


def described(place: tuple[float, float, float]) -> str:
    """Start, end and moment in words."""
    start, end, at = place
    return f"{start:g} to {end:g} at {100 * at:.0f} % of the epochs"


def description(heated: Heated) -> str:
    """The best and the worst of all."""
    order = sorted(heated, key=lambda place: mean(heated[place]))
    worst, best = order[0], order[-1]
    return (
        f"Recall@1 (%) by start alpha, end alpha and moment of heating, means of "
        f"{numbers(list(heated.values()))} with half of their 95 % intervals below. Best: from "
        f"{described(best)}, {told(heated[best])}; worst: from {described(worst)}, "
        f"{told(heated[worst])}."
    )


def drawn(heated: Heated) -> Canvas:
    """Maps of one scale; a cell that was not trained stays empty."""
    starts, ends, moments = (sorted({place[i] for place in heated}) for i in range(3))
    columns = min(A_ROW, len(moments))
    rows = -(-len(moments) // columns)
    sheet = canvas(0.4 + rows * (1 + 0.55 * len(starts)))
    panels = list(sheet.subplots(rows, columns, sharey=True, squeeze=False).flat)
    values = [mean(run) for run in heated.values()]
    scale = Normalize(min(values), max(max(values), min(values) + 1e-6))
    for axes, at in zip(panels, moments, strict=False):
        cells = {(s, e): run for (s, e, moment), run in heated.items() if moment == at}
        heat_map(axes, cells, starts, ends, scale)
        axes.set_title(f"at {100 * at:.0f} % of the epochs")
    for axes in panels[len(moments) :]:
        axes.remove()
    sheet.supxlabel("end alpha", fontsize="medium")
    sheet.supylabel("start alpha", fontsize="medium")
    return sheet


def heat_map(
    axes: Axes,
    cells: Mapping[tuple[float, float], Result],
    starts: Sequence[float],
    ends: Sequence[float],
    scale: Normalize,
) -> None:
    """A cell a run, with its number, and half of its interval's width."""
    grid = [[mean(cells[s, e]) if (s, e) in cells else float("nan") for e in ends] for s in starts]
    axes.pcolormesh(grid, norm=scale, cmap=COLOURS, edgecolor="white", linewidth=2)
    for (start, end), run in cells.items():
        width = half(run)
        axes.text(
            ends.index(end) + 0.5,
            starts.index(start) + 0.5,
            told(run) + ("" if width is None else f"\n± {width:.2f}"),
            ha="center",
            va="center",
            fontsize="small",
            color="white" if scale(mean(run)) < 0.5 else "black",
        )
    axes.set_xticks([i + 0.5 for i in range(len(ends))], [f"{end:g}" for end in ends])
    axes.set_yticks([i + 0.5 for i in range(len(starts))], [f"{start:g}" for start in starts])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
