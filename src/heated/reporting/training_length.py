"""The effects of heating and of the drop against the length of the training, on equal images."""

import json
from collections.abc import Sequence
from itertools import product

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from heated.analysis.claims import paired_t_test
from heated.reporting.figures.base import WIDTH, report_style, svg_text
from heated.reporting.main_effects import METRICS, Document, effect_samples
from heated.reporting.tables import format_points, markdown_table

MIN_RECIPES = 3  # with the same images
EFFECTS = {  # claims by metric
    "lower α": {"recall": "bn-heat-recall", "map": "bn-heat-map"},
    "lower learning rate": {"recall": "bn-drop-recall", "map": "bn-drop-map"},
    "both (hbn − bn)": {"recall": "hbn-over-bn", "map": "hbn-over-bn-map"},
}
X_AXES = {
    "epochs": "epochs, the last 24 % heated",
    "accuracy": "accuracy before heating (%)",
}
Points = list[tuple[Document, float, float]]  # with an effect and half its interval, in points


def equal_images(documents: Sequence[Document]) -> list[list[Document]]:
    """Group recipes with hbn and bn and the same images by epochs; leave out groups of a few."""
    groups: dict[str, list[Document]] = {}
    compared = effect_samples(documents, "hbn-over-bn")
    for document in sorted(documents, key=epochs):
        if document["dataset"] not in compared:
            continue
        groups.setdefault(json.dumps(document["split"], sort_keys=True), []).append(document)
    return [group for group in groups.values() if len(group) >= MIN_RECIPES]


def epochs(document: Document) -> int:
    """Return the epochs of a recipe, 0 if unknown."""
    return int(document["parameters"].get("epochs", 0))


def accuracy(document: Document) -> float:
    """Return the mean training accuracy before heating in percent, NaN if it is unknown."""
    seeds = document.get("accuracy_before_heating", {}).get("hbn")
    return 100 * float(np.mean([*seeds.values()])) if seeds else np.nan


def effect_points(group: Sequence[Document], claim: str) -> Points:
    """Return the effect of each recipe with at least two seeds, and half its 95 % interval."""
    samples = effect_samples(group, claim)
    found = []
    for document in group:
        if document["dataset"] in samples:
            test = paired_t_test(np.asarray(samples[document["dataset"]]))
            low, high = test["interval"]
            found.append((document, 100 * test["effect"], 50 * (high - low)))
    return found


def length_table(group: Sequence[Document]) -> str:
    """Format a row per recipe: epochs, accuracy before heating, seeds, and the effects."""
    columns: dict[str, dict[str, str]] = {}
    for metric, (effect, claims) in product(METRICS, EFFECTS.items()):
        cells = {
            document["dataset"]: f"{format_points(mean / 100)} ± {half:.2f}"
            for document, mean, half in effect_points(group, claims[metric])
        }
        columns[f"{effect}, {METRICS[metric]}"] = cells
    rows = []
    for document in group:
        name, before = document["dataset"], accuracy(document)
        n = next(each["n"] for each in document["claims"] if each["claim"] == "hbn-over-bn")
        head = [name, str(epochs(document)), "" if np.isnan(before) else f"{before:.1f}", str(n)]
        rows.append([*head, *(cells.get(name, "") for cells in columns.values())])
    return markdown_table(["recipe", "epochs", "accuracy (%)", "n", *columns], rows)


def length_plot(group: Sequence[Document]) -> str:
    """Draw the effects against epochs, and against the accuracy before heating, as SVG text.

    The second row needs two recipes whose accuracy is known.
    """
    rows = 1 + (np.isfinite([*map(accuracy, group)]).sum() > 1)
    with report_style():
        figure = Figure(figsize=(WIDTH, 0.6 + 2.3 * rows))
        panels = figure.subplots(rows, 2, sharey="col", squeeze=False)
        for row, (axis, title) in zip(panels, X_AXES.items(), strict=False):
            for axes, (metric, name) in zip(row, METRICS.items(), strict=True):
                draw_effects(axes, group, metric, axis)
                axes.set(title=name if axis == "epochs" else "", xlabel=title)
        for axes in panels[0]:
            axes.set_xscale("log")
            axes.minorticks_off()
            axes.set_xticks(lengths := sorted({*map(epochs, group)}), [*map(str, lengths)])
        figure.supylabel("effect (points, 95 % CI)")
        handles, labels = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
        return svg_text(figure, "Effects of heating and of the drop by length of the training")


def draw_effects(axes: Axes, group: Sequence[Document], metric: str, axis: str) -> None:
    """Draw the effects on a metric against `epochs` or the `accuracy` before heating."""
    axes.axhline(0, color="black", linewidth=0.8)
    for index, (label, claims) in enumerate(EFFECTS.items()):
        points = effect_points(group, claims[metric])
        shift = index - 1  # side by side
        x = [
            epochs(each) * 1.05**shift if axis == "epochs" else accuracy(each) + 0.3 * shift
            for each, *_ in points
        ]
        means, halves = [mean for _, mean, _ in points], [half for *_, half in points]
        marker = f"C{index}{'os^'[index]}"
        axes.errorbar(x, means, yerr=halves, fmt=marker, markersize=4, label=label)
