"""Figures of the final Recall@1: by heating and learning rate, alpha, heating step, and time."""

from collections.abc import Sequence
from itertools import product
from math import nan

from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from heated.reporting.figures import base
from heated.reporting.figures.base import DescribedFigure
from heated.reporting.run_results import RunResult, Studies, select_studies
from heated.reporting.tables import format_points, median_seconds

CELLS = {  # whether alpha falls, and whether the learning rate falls
    (False, False): "neither",
    (False, True): "lr drop",
    (True, False): "heating",
    (True, True): "both",
}
AlphaRuns = dict[float, RunResult]  # by constant alpha, increasing
Controls = dict[str, RunResult]  # by kind
HeatedRuns = dict[tuple[float, float, float], RunResult]  # by start, end and time of the step


def draw_factorial(results: Sequence[RunResult], studies: Studies) -> DescribedFigure | None:
    """Draw heating x learning rate drop by normalization, a control that the paper lacks."""
    groups = complete_factorials(select_studies(results, studies, "run"))
    if not groups:
        return None
    figure, sentences = Figure(figsize=(base.WIDTH, 4)), []
    panels = figure.subplots(1, len(groups), sharey=True, squeeze=False)[0]
    for axes, (family, runs) in zip(panels, groups.items(), strict=True):
        values = [run.metrics["recall_at_1"]["seeds"] for run in runs]
        for seed in dict.fromkeys(seed for each in values for seed in each):
            heights = [100 * each.get(seed, nan) for each in values]
            axes.plot(range(4), heights, ".-", color="#999999", linewidth=0.8, gid=f"seed-{seed}")
        for x, run in enumerate(runs):
            style = base.method_styles(runs)[runs[0].method]
            base.plot_recall(axes, x + 0.2, run, style, linewidth=2)
        cells = [*zip(CELLS.values(), runs, strict=True)]
        ticks = [f"{cell}\n{run.method}\n{base.format_recall(run)}" for cell, run in cells]
        axes.set_xticks(range(4), ticks)
        axes.set(title=family, xlim=(-0.4, 3.6))
        axes.grid(visible=False, axis="x")
        texts = ", ".join(f"{cell} {base.format_recall(run)} ({run.method})" for cell, run in cells)
        added = base.mean_recall(runs[3]) - base.mean_recall(runs[1])
        sentences.append(f"{family}: {texts}; both − lr drop: {format_points(added / 100)}.")
    base.clip_to_percent(panels[0])  # all panels share its axis
    panels[0].set_ylabel(base.RECALL)
    return (
        f"Recall@1 (%), means over {base.seed_count(sum(groups.values(), []))} with 95 % "
        f"intervals. Thin lines connect the runs of a seed. {' '.join(sentences)}"
    ), figure


def complete_factorials(results: Sequence[RunResult]) -> dict[str, list[RunResult]]:
    """Return the first run of each of the four CELLS by normalization, without label smoothing."""
    found = {}
    for name, group in base.by_normalization(results).items():
        cells: dict[tuple[bool, bool], RunResult] = {}
        for result in group:
            alphas, lrs = result.curve("alpha")[1], result.curve("lr")[1]
            if alphas and not result.params.get("label_smoothing"):
                falls = alphas[-1] < alphas[0], bool(lrs) and lrs[-1] < lrs[0]
                cells.setdefault(falls, result)
        if cells.keys() == CELLS.keys():
            found[base.NORMALIZATIONS[name]] = [cells[cell] for cell in CELLS]
    return found


def draw_constant_alphas(results: Sequence[RunResult], studies: Studies) -> DescribedFigure | None:
    """Draw batch norm with constant alphas by D, and controls: the paper's last table."""
    runs = select_studies(results, studies, "run", "alphas", "embedding_dims")
    lines = constant_alphas_by_dim(runs)
    if not lines:
        return None
    controls = {dim: controls_of_dim(runs, dim) for dim in lines}
    sentences = []
    for dim, line in lines.items():
        best = max(line, key=lambda alpha: base.mean_recall(line[alpha]))
        values = ", ".join(f"{base.format_recall(run)} at {alpha:g}" for alpha, run in line.items())
        more = "".join(f"; {name} {base.format_recall(run)}" for name, run in controls[dim].items())
        sentences.append(f"D = {dim}: {values}; best alpha {best:g}{more}.")
    every = [run for line in lines.values() for run in line.values()]
    return (
        f"Recall@1 (%) of batch norm by constant alpha, means over {base.seed_count(every)} "
        f"with 95 % intervals. {' '.join(sentences)}"
    ), plot_constant_alphas(lines, controls)


def constant_alphas_by_dim(results: Sequence[RunResult]) -> dict[int, AlphaRuns]:
    """Return the batch norm runs with constant alpha, by D with at least three, and by alpha."""
    found: dict[int, AlphaRuns] = {}
    for result in base.by_normalization(results).get("batch", ()):
        alpha, lr = base.schedule_of(result, "alpha"), base.schedule_of(result, "lr_schedule")
        if (alpha["name"], lr["name"]) == ("constant", "constant"):
            line = found.setdefault(result.params["embedding_dim"], {})
            line.setdefault(float(alpha["value"]), result)
    ordered = {dim: dict(sorted(line.items())) for dim, line in sorted(found.items())}
    return {dim: line for dim, line in ordered.items() if len(line) > 2}


def controls_of_dim(results: Sequence[RunResult], dim: int) -> Controls:
    """Return plain softmax and heated batch norm with embeddings of dimension D."""
    groups = base.by_normalization([r for r in results if r.params.get("embedding_dim") == dim])
    kinds = {
        "softmax": [r for r in groups.get("none", ()) if not r.params.get("label_smoothing")],
        "heated": [r for r in groups.get("batch", ()) if base.heating_step(r)],
    }
    return {name: runs[0] for name, runs in kinds.items() if runs}


def plot_constant_alphas(lines: dict[int, AlphaRuns], controls: dict[int, Controls]) -> Figure:
    """Plot the lines, slightly shifted so that they do not overlap, and the controls."""
    figure = Figure(figsize=(base.WIDTH, 4.6))
    main, side = figure.subplots(1, 2, sharey=True, width_ratios=[3, 1])
    names = list(dict.fromkeys(name for each in controls.values() for name in each))
    width = 0.36 / len(lines)
    for index, (dim, line) in enumerate(lines.items()):
        style, shift = base.line_style(index + 1, index), index - (len(lines) - 1) / 2
        xs = [alpha * 1.04**shift for alpha in line]
        main.plot(xs, [base.mean_recall(run) for run in line.values()], label=f"D = {dim}", **style)
        for x, run in zip(xs, line.values(), strict=True):
            base.plot_recall(main, x, run, style)
        for name, run in controls[dim].items():
            x, height = names.index(name) + 2.2 * width * shift, base.mean_recall(run)
            side.hlines(height, x - width, x + width, color=style["color"], linewidth=3)
            base.plot_recall(side, x, run, style)
    main.set(title="batch norm, constant alpha", xlabel="alpha", ylabel=base.RECALL)
    main.set_xscale("log", base=2)
    base.set_ticks(main.xaxis, sorted({alpha for line in lines.values() for alpha in line}))
    side.set(xlim=(-0.6, len(names) - 0.4), title="controls")
    side.set_xticks(range(len(names)), names, fontsize="small")
    for axes in (main, side):
        axes.grid(visible=False, axis="x")
    base.clip_to_percent(main)
    handles, labels = main.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, handlelength=3.5)
    return figure


def draw_heating_steps(results: Sequence[RunResult], studies: Studies) -> DescribedFigure | None:
    """Draw Recall@1 by start alpha, end alpha and time of heating, main methods included."""
    study, runs = select_studies(results, studies, "timing"), HeatedRuns()
    groups = base.by_normalization(select_studies(results, studies, "run", "timing")).values()
    for run in next((group for group in groups if study and study[0] in group), []):
        if step := base.heating_step(run):
            runs.setdefault(step, run)
    if not runs:
        return None
    order = sorted(runs, key=lambda step: base.mean_recall(runs[step]))
    best, worst = (
        f"{start:g} to {end:g} at {100 * at:.0f} % of the epochs, "
        f"{base.format_recall(runs[start, end, at])}"
        for start, end, at in (order[-1], order[0])
    )
    return (
        "Recall@1 (%) by start alpha, end alpha and time of heating, means over "
        f"{base.seed_count(list(runs.values()))} with half the width of their 95 % intervals. "
        f"Best: from {best}; worst: from {worst}."
    ), plot_heating_steps(runs)


def plot_heating_steps(runs: HeatedRuns) -> Figure:
    """Plot one heat map per time of heating, with a common scale; untrained cells are empty."""
    starts, ends, times = (sorted({step[i] for step in runs}) for i in range(3))
    columns = min(3, len(times))
    rows = -(-len(times) // columns)
    figure = Figure(figsize=(base.WIDTH, 0.4 + rows * (1 + 0.55 * len(starts))))
    panels = list(figure.subplots(rows, columns, sharey=True, squeeze=False).flat)
    values = [base.mean_recall(run) for run in runs.values()]
    scale = Normalize(min(values), max(max(values), min(values) + 1e-6))
    style: base.LineStyle = {"ha": "center", "va": "center", "fontsize": "small"}
    for axes, at in zip(panels, times, strict=False):
        grid = [[runs.get((start, end, at)) for end in ends] for start in starts]
        heights = [[base.mean_recall(run) if run else nan for run in row] for row in grid]
        # The lightness of cividis increases evenly, so that it is also a gray scale.
        axes.pcolormesh(heights, norm=scale, cmap="cividis", edgecolor="white", linewidth=2)
        for y, x in product(range(len(starts)), range(len(ends))):
            if run := grid[y][x]:
                style["color"] = "white" if scale(heights[y][x]) < 0.5 else "black"
                axes.text(x + 0.5, y + 0.5, base.format_recall(run, "\n"), **style)
        axes.set_title(f"at {100 * at:.0f} % of the epochs")
        axes.set_xticks([i + 0.5 for i in range(len(ends))], [f"{end:g}" for end in ends])
        axes.set_yticks([i + 0.5 for i in range(len(starts))], [f"{start:g}" for start in starts])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.grid(visible=False)
    for axes in panels[len(times) :]:
        axes.remove()
    figure.supxlabel("end alpha", fontsize="medium")
    figure.supylabel("start alpha", fontsize="medium")
    return figure


def draw_training_costs(results: Sequence[RunResult], studies: Studies) -> DescribedFigure | None:
    """Draw Recall@1 of the competitors against their training time, labeled with their ranks."""
    competitors = select_studies(results, studies, "competitors")
    runs = sorted(competitors, key=base.mean_recall, reverse=True)
    if not runs:
        return None
    figure = Figure(figsize=(base.WIDTH, 5.6))
    axes = figure.subplots()
    styles: list[base.LineStyle] = [
        {"color": f"C{kind + 1}", "marker": base.MARKERS[kind], "markerfacecolor": "white"}
        for kind in (0, 1)
    ]
    for rank, run in enumerate(runs, 1):
        seconds = median_seconds(run)
        base.plot_recall(axes, seconds, run, styles["loss" in run.params], zorder=2)
        axes.annotate(f" {rank}", (seconds, base.mean_recall(run)), fontsize=8)
    kinds = ("softmax and variants", "losses of pytorch-metric-learning")
    for style, label in zip(styles, kinds, strict=True):
        axes.plot([], [], linestyle="none", label=label, **style)
    axes.set(xlabel="seconds per training, median", ylabel=base.RECALL)
    names = "   ".join(f"{rank} {run.method}" for rank, run in enumerate(runs, 1))
    figure.supxlabel(names, fontsize=8, wrap=True)
    figure.legend(loc="outside upper center", ncols=2)
    texts = [f"{r.method} {base.format_recall(r, ' ')} ({median_seconds(r):.0f} s)" for r in runs]
    return (
        "Recall@1 (%) with its 95 % interval against the median training time. Best first: "
        f"{', '.join(texts)}."
    ), figure
