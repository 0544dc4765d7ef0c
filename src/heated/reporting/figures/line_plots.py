"""Line plots: Recall@1, loss, class geometry and schedules by epoch, and gradients by alpha."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from heated.common.io import read_json
from heated.reporting.figures import base
from heated.reporting.figures.base import DescribedFigure
from heated.reporting.run_results import RunResult, Studies, select_studies

PANELS = {
    "recall_at_1": "Recall@1 (%), unseen classes",
    "alpha": "alpha = 1 / temperature",
    "loss": "training loss",
}
GEOMETRY = {
    "intra_class_variance": "intra-class variance",
    "inter_class_distance": "inter-class distance",
}
HEATING_MARKS = "A dotted line marks the start of heating, and a dot the first epoch after it"
MAX_VALUES = 40  # points of a curve with a text, for the size of the page
BANDS = ("-", "-.")  # lines whose intervals are drawn: all of them would cover each other
KINDS = {
    "centroid": "near the centroid",
    "boundary": "near the boundary",
    "misclassified": "misclassified",
}
GradientCurves = Mapping[str, Any]  # of one seed


def draw_training_curves(results: Sequence[RunResult], studies: Studies) -> DescribedFigure | None:
    """Draw Recall@1, alpha and loss of the main methods, None if there are none."""
    runs = select_studies(results, studies, "run")
    if not runs:
        return None
    figure, styles = Figure(figsize=(base.WIDTH, 6.8)), base.method_styles(runs)
    panels = figure.subplot_mosaic([["recall_at_1"] * 2, ["alpha", "loss"]], height_ratios=[3, 2])
    for column, axes in panels.items():
        for run in runs:
            plot_curve(axes, run, column, styles[run.method], mark_heating=True)
        axes.set(title=PANELS[column], xlabel="epoch")
    base.add_legend(figure, runs)
    ends = ", ".join(f"{run.method} {base.format_recall(run)}" for run in runs)
    epochs = [(run.method, run.heating_epoch()) for run in runs]
    heated = ", ".join(f"{method} from epoch {at}" for method, at in epochs if at is not None)
    return (
        f"Recall@1, alpha and training loss by epoch, means over {base.seed_count(runs)}. Bands "
        "are 95 % intervals of Recall@1, of solid and dash-dotted lines only. Final "
        f"Recall@1 (%): {ends}. {HEATING_MARKS}: {heated or 'no heated method'}."
    ), figure


def plot_curve(
    axes: Axes, result: RunResult, column: str, style: base.LineStyle, *, mark_heating: bool = False
) -> None:
    """Plot a column's mean over the seeds, if wanted with HEATING_MARKS."""
    epochs, values = result.curve(column)
    scale = 100 if column == "recall_at_1" else 1
    heights = [scale * value for value in values]
    halves = [scale * half for half in result.curve_half_widths(column)]
    axes.plot(epochs, heights, label=result.method, markevery=max(1, len(epochs) // 8), **style)
    texts = value_texts(result, column, epochs, heights, halves)
    step = -(-len(texts) // MAX_VALUES) or 1
    base.add_values(axes, epochs[::-step], heights[::-step], texts[::-step])
    if column == "recall_at_1" and style["linestyle"] in BANDS:
        low, high = (
            [h + sign * half for h, half in zip(heights, halves, strict=True)] for sign in (-1, 1)
        )
        axes.fill_between(epochs, low, high, color=style["color"], alpha=0.1, linewidth=0)
    heated = result.heating_epoch()
    if mark_heating and heated is not None:
        line = {"color": style["color"], "linestyle": ":", "linewidth": 1}
        axes.axvline(heated - 0.5, **line)
        if heated in epochs:  # former versions measured Recall@1 at the interval only
            height = heights[epochs.index(heated)]
            axes.plot(heated, height, "o", color=style["color"], markersize=8, zorder=3)
    if column == "alpha":
        axes.set_yscale("log", base=2)
        axes.yaxis.set_major_formatter("{x:g}")


def value_texts(
    result: RunResult, column: str, epochs: Sequence[int], *values: Sequence[float]
) -> list[str]:
    """Return a text for each point of a curve; `values` are heights and half widths."""
    name, unit = {"recall_at_1": ("Recall@1", " %")}.get(column, (GEOMETRY.get(column, column), ""))
    texts = []
    for epoch, height, half in zip(epochs, *values, strict=True):
        number = f"{height:.3f} ± {half:.3f}" if half else f"{height:.4g}"
        texts.append(f"{result.method}, epoch {epoch}: {name} {number}{unit}")
    return texts


def draw_class_geometry(results: Sequence[RunResult], studies: Studies) -> DescribedFigure | None:
    """Draw intra-class variance and inter-class distance of the main methods with both."""
    main = select_studies(results, studies, "run")
    groups = base.by_normalization([r for r in main if all(r.curve(c)[1] for c in GEOMETRY)])
    columns = {base.NORMALIZATIONS[n]: groups[n] for n in ("l2", "batch") if n in groups}
    every = sum(columns.values(), [])
    if not every:
        return None
    figure, styles = Figure(figsize=(base.WIDTH, 5.6)), base.method_styles(every)
    panels = figure.subplots(2, len(columns), sharex=True, sharey="row", squeeze=False)
    for row, (column, label) in zip(panels, GEOMETRY.items(), strict=True):
        row[0].set_ylabel(label)
        for axes, runs in zip(row, columns.values(), strict=True):
            for run in runs:
                plot_curve(axes, run, column, styles[run.method], mark_heating=True)
    for top, bottom, title in zip(*panels, columns, strict=True):
        top.set_title(title)
        bottom.set_xlabel("epoch")
    base.add_legend(figure, every)
    ends = [(run.method, *(run.curve(column)[1][-1] for column in GEOMETRY)) for run in every]
    values = "; ".join(f"{name} {inner:.3f} and {inter:.3f}" for name, inner, inter in ends)
    return (
        "Intra-class variance (0: every unseen class is a single point) and inter-class distance "
        "(0.5: classes are at right angles on average) over the epochs, means over "
        f"{base.seed_count(every)}. {HEATING_MARKS}. Final values: {values}."
    ), figure


def draw_schedule_shapes(results: Sequence[RunResult], studies: Studies) -> DescribedFigure | None:
    """Draw the smooth schedules of alpha and the main methods that differ only in the shape."""
    study = select_studies(results, studies, "schedule_shapes")
    if not study:
        return None
    main = [run for run in select_studies(results, studies, "run") if run not in study]
    settings = all_but_shape(study[0])
    runs = [*(run for run in main if all_but_shape(run) == settings), *study]
    figure = Figure(figsize=(base.WIDTH, 6.2))
    panels = figure.subplot_mosaic(
        [["alpha", "alpha"], ["recall", "final"]], height_ratios=[2, 3], width_ratios=[4, 1]
    )
    panels["final"].sharey(panels["recall"])
    for index, run in enumerate(runs):
        style = base.line_style(index, index)
        plot_curve(panels["alpha"], run, "alpha", style)
        plot_curve(panels["recall"], run, "recall_at_1", style)
        base.plot_recall(panels["final"], index, run, style)
    panels["alpha"].set(title=PANELS["alpha"], xlabel="epoch")
    panels["recall"].set(title="Recall@1, unseen classes", xlabel="epoch", ylabel=base.RECALL)
    panels["final"].set(title="final", xticks=[], xlim=(-0.8, len(runs) - 0.2))
    panels["final"].tick_params(labelleft=False)
    base.clip_to_percent(panels["recall"])
    lines = panels["alpha"].get_lines()
    figure.legend(handles=lines, loc="outside lower center", ncols=2, handlelength=3.5)
    texts = [
        f"{run.method} ({base.schedule_of(run, 'alpha')['name']}) {base.format_recall(run, ' ')}"
        for run in runs
    ]
    return (
        f"Alpha and Recall@1 over the epochs, means over {base.seed_count(runs)}. Right: the final "
        f"Recall@1 with its 95 % interval (%): {', '.join(texts)}."
    ), figure


def all_but_shape(result: RunResult) -> tuple[Any, ...]:
    """Return a run's parameters except the shape of alpha's schedule: only its two ends."""
    alpha = base.schedule_of(result, "alpha")
    rest = {key: value for key, value in result.params.items() if key != "alpha"}
    return alpha.get("start"), alpha.get("end"), rest


def draw_gradients(results: Sequence[RunResult], studies: Studies) -> DescribedFigure | None:
    """Draw the first seed's model of every method with a gradients.json, by kind of sample."""
    paths = {result.method: result.folder / "gradients.json" for result in results}
    seeds = {name: read_json(path)["seeds"] for name, path in paths.items() if path.exists()}
    curves = {method: each[min(each, key=int)] for method, each in seeds.items()}
    if not curves:
        return None
    figure = Figure(figsize=(base.WIDTH, 0.5 + 2.2 * len(curves)))
    panels = figure.subplots(len(curves), len(KINDS), sharex=True, squeeze=False)
    sentences = []
    for row, (method, each) in zip(panels, curves.items(), strict=True):
        for index, (axes, kind) in enumerate(zip(row, KINDS, strict=True)):
            plot_kind(axes, each, kind, f"C{index + 1}")
        row[0].set_ylabel(method + "\n" + r"$\|\partial\ell/\partial\hat{f}\|$")
        peaks = ", ".join(f"{title} {describe_peak(each, kind)}" for kind, title in KINDS.items())
        sentences.append(f"{method}: {peaks}.")
    for top, bottom, title in zip(panels[0], panels[-1], KINDS.values(), strict=True):
        top.set_title(title)
        bottom.set_xlabel("alpha")
    return (
        "Norm of the loss's gradient with respect to the normalized embedding, against alpha, for "
        "the first seed's model. Lines are medians over samples, bands the ranges from 10 to 90 % "
        "and from 25 to 75 %. The dotted line is the model's final alpha. Peaks of the median: "
        f"{' '.join(sentences)}"
    ), figure


def describe_peak(curves: GradientCurves, kind: str) -> str:
    """Describe the maximum of one kind's median, if it is within the range of alpha."""
    if kind not in curves["kinds"]:
        return "no sample"
    found, alphas = curves["kinds"][kind], curves["alphas"]
    if found["peak_alpha"] == alphas[-1]:
        return f"still rising at alpha {alphas[-1]:g}, to {found['quantiles']['0.5'][-1]:.1f}"
    below = " or below" if found["peak_alpha"] == alphas[0] else ""
    return f"{found['peak_norm']:.1f} at alpha {found['peak_alpha']:g}{below}"


def plot_kind(axes: Axes, curves: GradientCurves, kind: str, color: str) -> None:
    """Plot the median and the bands of one kind of sample."""
    axes.axvline(curves["alpha"], color="black", linestyle=":", linewidth=1)
    if kind not in curves["kinds"]:
        axes.text(0.5, 0.5, "none", ha="center", transform=axes.transAxes)
        return
    found, alphas = curves["kinds"][kind], curves["alphas"]
    for low, high, opacity in (("0.1", "0.9", 0.2), ("0.25", "0.75", 0.35)):
        pair = (found["quantiles"][low], found["quantiles"][high])
        axes.fill_between(alphas, *pair, color=color, alpha=opacity, linewidth=0)
    axes.plot(alphas, found["quantiles"]["0.5"], color=color, linewidth=2)
    axes.set_xlim(0, alphas[-1])
    axes.set_ylim(bottom=0)
    axes.text(0.97, 0.95, f"n = {found['n']}", ha="right", va="top", transform=axes.transAxes)
