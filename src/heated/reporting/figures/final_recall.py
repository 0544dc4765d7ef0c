"""Figures of the final Recall@1: by heat and drop, constant alpha, timing, and seconds."""

from collections.abc import Mapping, Sequence
from math import nan

from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure as Canvas

from heated.reporting.costs import costs, seconds
from heated.reporting.figures.base import (
    MARKERS,
    NORMALISATIONS,
    RECALL,
    Drawing,
    Look,
    Studies,
    canvas,
    families,
    heating,
    look,
    looks,
    mean,
    normalisation,
    numbers,
    of_studies,
    point,
    schedule,
    ticks_at,
    told,
    within_bounds,
)
from heated.reporting.results import Result

CELLS = {  # whether alpha falls, and whether the learning rate does
    (False, False): "neither",
    (False, True): "lr drop",
    (True, False): "heat",
    (True, True): "both",
}
FEWEST = 3  # constant alphas that make a line
MAPS = 3  # in a row
KINDS = ("softmax and relatives", "pytorch-metric-learning's losses")
Line = dict[float, Result]  # by alpha, rising
Heated = dict[tuple[float, float, float], Result]  # by start, end, moment


def factorial(results: Sequence[Result], studies: Studies) -> Drawing | None:
    """Heat by drop of the learning rate, the control that the paper lacks, with every seed: a panel
    for each family of the main methods that has all four; None where none has."""
    crossings = crossed(of_studies(results, studies, "run"))
    if not crossings:
        return None
    sheet, sentences = canvas(4), []
    panels = sheet.subplots(1, len(crossings), sharey=True, squeeze=False)[0]
    for axes, runs in zip(panels, crossings, strict=True):
        paired_seeds(axes, runs)
        for x, run in enumerate(runs):
            point(axes, x + 0.2, run, looks(runs)[runs[0].method], linewidth=2)
        names = [*zip(CELLS.values(), runs, strict=True)]
        axes.set_xticks(range(4), [f"{cell}\n{run.method}\n{told(run)}" for cell, run in names])
        family, added = NORMALISATIONS[normalisation(runs[0])], mean(runs[3]) - mean(runs[1])
        axes.set(title=family, xlim=(-0.4, 3.6))
        axes.grid(visible=False, axis="x")
        cells = ", ".join(f"{cell} {told(run)} ({run.method})" for cell, run in names)
        sentences.append(f"With {family}: {cells}; heat adds {added:+.2f} to the drop alone.")
    within_bounds(panels[0])  # the others share its axis, and are drawn by now
    panels[0].set_ylabel(RECALL)
    return (
        f"Recall@1 (%), means of {numbers(sum(crossings, []))} with 95 % intervals; thin lines "
        f"join the runs of a seed. {' '.join(sentences)}"
    ), sheet


def crossed(results: Sequence[Result]) -> list[list[Result]]:
    """Of each normalisation the runs of the four CELLS, the first of each, where it has all; runs
    with smoothed labels are no part of the comparison."""
    found = []
    for family in families(results).values():
        cells: dict[tuple[bool, bool], Result] = {}
        for result in family:
            alphas, lrs = result.curve("alpha")[1], result.curve("lr")[1]
            if alphas and not result.params.get("label_smoothing"):
                falls = alphas[-1] < alphas[0], bool(lrs) and lrs[-1] < lrs[0]
                cells.setdefault(falls, result)
        if cells.keys() == CELLS.keys():
            found.append([cells[cell] for cell in CELLS])
    return found


def paired_seeds(axes: Axes, runs: Sequence[Result]) -> None:
    """A thin line through the values of each seed."""
    values = [run.metrics["recall_at_1"]["seeds"] for run in runs]
    for seed in dict.fromkeys(seed for each in values for seed in each):
        heights = [100 * each.get(seed, nan) for each in values]
        axes.plot(range(4), heights, ".-", color="#999999", linewidth=0.8, gid=f"seed-{seed}")


def constant_alphas(results: Sequence[Result], studies: Studies) -> Drawing | None:
    """Batch norm with constant alphas, a line for each D, the paper's last table: softmax and
    heated runs in a panel beside it; None unless there are at least three alphas of one D."""
    shown = of_studies(results, studies, "run", "alphas", "dimensions")
    lines = by_dimensions(shown)
    if not lines:
        return None
    marks = {dim: beside(shown, dim) for dim in lines}
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
    ), alphas_sheet(lines, marks)


def constant_alpha(result: Result) -> float | None:
    """Alpha, where it and the learning rate stay as they are; else None."""
    alpha, lr_factor = schedule(result, "alpha"), schedule(result, "lr_factor")
    constant = (alpha["name"], lr_factor["name"]) == ("constant", "constant")
    return float(alpha["value"]) if constant else None


def by_dimensions(results: Sequence[Result]) -> dict[int, Line]:
    """For each D, rising, the run of each constant alpha, where there are enough."""
    found: dict[int, Line] = {}
    for result in results:
        alpha = constant_alpha(result)
        if alpha is not None and normalisation(result) == "batch":
            found.setdefault(result.params["embedding_dim"], {}).setdefault(alpha, result)
    return {
        dim: dict(sorted(line.items()))
        for dim, line in sorted(found.items())
        if len(line) >= FEWEST
    }


def beside(results: Sequence[Result], dim: int) -> dict[str, Result]:
    """What a D's constant alphas are compared with: plain softmax, and the heated batch norm."""
    found: dict[str, Result] = {}
    for result in results:
        if result.params.get("embedding_dim") != dim:
            continue
        if normalisation(result) == "none" and not result.params.get("label_smoothing"):
            found.setdefault("softmax", result)
        if normalisation(result) == "batch" and heating(result):
            found.setdefault("heated", result)
    return found


def alphas_sheet(lines: Mapping[int, Line], marks: Mapping[int, Mapping[str, Result]]) -> Canvas:
    """The lines, each a little aside of the others; softmax and heated runs beside them."""
    sheet = canvas(4.6)
    main, side = sheet.subplots(1, 2, sharey=True, width_ratios=[3, 1])
    names = list(dict.fromkeys(name for each in marks.values() for name in each))
    width = 0.36 / len(lines)
    for index, (dim, line) in enumerate(lines.items()):
        own, shift = look(index + 1, index), index - (len(lines) - 1) / 2
        places = [alpha * 1.04**shift for alpha in line]
        main.plot(places, [mean(run) for run in line.values()], label=f"D = {dim}", **own)
        for x, run in zip(places, line.values(), strict=True):
            point(main, x, run, own)
        for name, run in marks[dim].items():
            x = names.index(name) + 2.2 * width * shift
            side.hlines(mean(run), x - width, x + width, color=own["color"], linewidth=3)
            point(side, x, run, own)
    main.set(title="batch norm, constant alpha", xlabel="alpha", ylabel=RECALL)
    main.set_xscale("log", base=2)
    ticks_at(main.xaxis, sorted({alpha for line in lines.values() for alpha in line}))
    side.set(xlim=(-0.6, len(names) - 0.4), title="beside")
    side.set_xticks(range(len(names)), names, fontsize="small")
    for axes in (main, side):
        axes.grid(visible=False, axis="x")
    within_bounds(main)
    handles, labels = main.get_legend_handles_labels()
    sheet.legend(handles, labels, loc="outside lower center", ncols=3, handlelength=3.5)
    return sheet


def timing(results: Sequence[Result], studies: Studies) -> Drawing | None:
    """Recall@1 by start alpha, end alpha and moment of heating, of the study and of the main
    methods that are heated alike; None where the study was not run."""
    study, heated = of_studies(results, studies, "timing"), Heated()
    for result in of_studies(results, studies, "run", "timing"):
        place = heating(result)
        if study and place and normalisation(result) == normalisation(study[0]):
            heated.setdefault(place, result)
    if not heated:
        return None
    order = sorted(heated, key=lambda place: mean(heated[place]))
    worst, best = order[0], order[-1]
    return (
        f"Recall@1 (%) by start alpha, end alpha and moment of heating, means of "
        f"{numbers(list(heated.values()))} with half of their 95 % intervals below. Best: from "
        f"{in_words(best)}, {told(heated[best])}; worst: from {in_words(worst)}, "
        f"{told(heated[worst])}."
    ), maps(heated)


def in_words(place: tuple[float, float, float]) -> str:
    """Start, end and moment of heating."""
    start, end, at = place
    return f"{start:g} to {end:g} at {100 * at:.0f} % of the epochs"


def maps(heated: Heated) -> Canvas:
    """A map for each moment, of one scale; a cell that was not trained stays empty."""
    starts, ends, moments = (sorted({place[i] for place in heated}) for i in range(3))
    columns = min(MAPS, len(moments))
    rows = -(-len(moments) // columns)
    sheet = canvas(0.4 + rows * (1 + 0.55 * len(starts)))
    panels = list(sheet.subplots(rows, columns, sharey=True, squeeze=False).flat)
    values = [mean(run) for run in heated.values()]
    scale = Normalize(min(values), max(max(values), min(values) + 1e-6))
    for axes, at in zip(panels, moments, strict=False):
        grid = [[heated.get((start, end, at)) for end in ends] for start in starts]
        heat_map(axes, grid, scale)
        axes.set_title(f"at {100 * at:.0f} % of the epochs")
        axes.set_xticks([i + 0.5 for i in range(len(ends))], [f"{end:g}" for end in ends])
        axes.set_yticks([i + 0.5 for i in range(len(starts))], [f"{start:g}" for start in starts])
    for axes in panels[len(moments) :]:
        axes.remove()
    sheet.supxlabel("end alpha", fontsize="medium")
    sheet.supylabel("start alpha", fontsize="medium")
    return sheet


def heat_map(axes: Axes, grid: Sequence[Sequence[Result | None]], scale: Normalize) -> None:
    """A cell a run, with its number, and half of its interval's width."""
    heights = [[mean(run) if run else nan for run in row] for row in grid]
    # cividis: its lightness rises evenly, so that it is a scale of grays too
    axes.pcolormesh(heights, norm=scale, cmap="cividis", edgecolor="white", linewidth=2)
    for y, row in enumerate(grid):
        for x, run in enumerate(row):
            if run:
                color = "white" if scale(mean(run)) < 0.5 else "black"
                place: Look = {"ha": "center", "va": "center", "fontsize": "small", "color": color}
                axes.text(x + 0.5, y + 0.5, told(run, "\n"), **place)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.grid(visible=False)


def against_seconds(results: Sequence[Result], studies: Studies) -> Drawing | None:
    """Recall@1 of competitors against the seconds that their training takes, with the method's rank
    beside its point, and the ranks' names below; None where the study was not run."""
    ranked = sorted(costs(results, studies), key=mean, reverse=True)
    if not ranked:
        return None
    sheet = canvas(5.6)
    axes = sheet.subplots()
    kinds: list[Look] = [
        {"color": f"C{kind + 1}", "marker": MARKERS[kind], "markerfacecolor": "white"}
        for kind in (0, 1)
    ]
    for rank, run in enumerate(ranked, 1):
        point(axes, seconds(run), run, kinds["loss" in run.params], zorder=2)
        axes.annotate(f" {rank}", (seconds(run), mean(run)), fontsize=8)
    for kind, label in zip(kinds, KINDS, strict=True):
        axes.plot([], [], linestyle="none", label=label, **kind)
    axes.set(xlabel="seconds of a training, median", ylabel=RECALL)
    names = "   ".join(f"{rank} {run.method}" for rank, run in enumerate(ranked, 1))
    sheet.supxlabel(names, fontsize=8, wrap=True)
    sheet.legend(loc="outside upper center", ncols=2)
    words = ", ".join(f"{r.method} {told(r, ' ')} ({seconds(r):.0f} s)" for r in ranked)
    return (
        "Recall@1 (%) with its 95 % interval against the median seconds of a training; the best "
        f"first: {words}."
    ), sheet
