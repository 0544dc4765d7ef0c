"""Recall@1 against constant alphas, a line for each D: the paper's last table."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import NullLocator

from heated.reporting.figures.figure import Figure, canvas, svg
from heated.reporting.figures.looks import Look, look, normalisation
from heated.reporting.figures.recall import LABEL, mean, numbers, point, told, within_bounds
from heated.reporting.figures.selecting import (
    Studies,
    constant_alpha,
    heating,
    of_studies,
    setting,
)
from heated.reporting.results import Result

FEWEST = 3  # constant alphas that make a line
TITLE = "Constant alphas"
Line = dict[float, Result]  # by alpha, rising


def figure(results: Sequence[Result], studies: Studies) -> Figure | None:
    """Batch norm with constant alphas; None unless there are at least three of one D."""
    shown = of_studies(results, studies, "run", "alphas", "dimensions")
    lines = by_dimensions(shown)
    if not lines:
        return None
    marks = {dim: beside(shown, dim) for dim in lines}
    return Figure("alphas", TITLE, description(lines, marks), svg(drawn(lines, marks), TITLE))


def by_dimensions(results: Sequence[Result]) -> dict[int, Line]:
    """For each D, rising, the run of each constant alpha, where there are enough."""
    found: dict[int, Line] = {}
    for result in results:
        alpha = constant_alpha(result)
        if alpha is not None and normalisation(result) == "batch":
            found.setdefault(setting(result, "embedding_dim"), {}).setdefault(alpha, result)
    return {dim: dict(sorted(found[dim].items())) for dim in sorted(found) if enough(found[dim])}


def enough(line: Line) -> bool:
    """Whether a line can be drawn."""
    return len(line) >= FEWEST


def beside(results: Sequence[Result], dim: int) -> dict[str, Result]:
    """What a D's constant alphas are compared with: plain softmax, and the heated batch norm."""
    found: dict[str, Result] = {}
    for result in results:
        if setting(result, "embedding_dim") != dim:
            continue
        if normalisation(result) == "none" and not setting(result, "label_smoothing"):
            found.setdefault("softmax", result)
        if normalisation(result) == "batch" and heating(result):
            found.setdefault("heated", result)
    return found


def description(lines: Mapping[int, Line], marks: Mapping[int, Mapping[str, Result]]) -> str:
    """Each D's values, its best constant alpha, and what stands beside."""
    sentences = []
    for dim, line in lines.items():
        best = max(line, key=lambda alpha: mean(line[alpha]))
        values = ", ".join(f"{told(run)} at {alpha:g}" for alpha, run in line.items())
        others = "".join(f"; {name} {told(run)}" for name, run in marks[dim].items())
        sentences.append(f"D = {dim}: {values}; the best is alpha {best:g}{others}.")
    every = [run for line in lines.values() for run in line.values()]
    return (
        f"Recall@1 (%) of batch norm by constant alpha, means of {numbers(every)} with 95 % "
        f"intervals. {' '.join(sentences)}"
    )


def drawn(lines: Mapping[int, Line], marks: Mapping[int, Mapping[str, Result]]) -> Canvas:
    """The lines on a logarithmic axis; softmax and heated runs in a panel beside it."""
    sheet = canvas(4.6)
    main, side = sheet.subplots(1, 2, sharey=True, width_ratios=[3, 1])
    names = list(dict.fromkeys(name for each in marks.values() for name in each))
    width = 0.36 / len(lines)
    for index, (dim, line) in enumerate(lines.items()):
        own, shift = look(index + 1, index), index - (len(lines) - 1) / 2
        by_alpha(main, line, own, shift, f"D = {dim}")
        for name, run in marks[dim].items():
            x = names.index(name) + 2.2 * width * shift
            side.hlines(mean(run), x - width, x + width, color=own.colour, linewidth=3)
            point(side, x, run, own)
    ticks(main, lines)
    side.set(xticks=range(len(names)), xlim=(-0.6, len(names) - 0.4), title="beside")
    side.set_xticklabels(names, fontsize="small")
    for axes in (main, side):
        axes.grid(axis="y")
    within_bounds(main)
    handles, labels = main.get_legend_handles_labels()
    sheet.legend(handles, labels, loc="outside lower center", ncols=3, handlelength=3.5)
    return sheet


def by_alpha(axes: Axes, line: Line, look: Look, shift: float, label: str) -> None:
    """A D's line, a little aside of the others', with intervals."""
    places = [alpha * 1.04**shift for alpha in line]
    axes.plot(places, [mean(run) for run in line.values()], label=label, **look.line())
    for x, run in zip(places, line.values(), strict=True):
        point(axes, x, run, look)


def ticks(axes: Axes, lines: Mapping[int, Line]) -> None:
    """A tick at each alpha that was trained."""
    alphas = sorted({alpha for line in lines.values() for alpha in line})
    axes.set_xscale("log", base=2)
    axes.set_xticks(alphas, [f"{alpha:g}" for alpha in alphas])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set(title="batch norm, constant alpha", xlabel="alpha", ylabel=LABEL)
