"""The gradient norm of a trained model's samples against alpha, by kind of sample."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from heated.common.io import read_json
from heated.reporting.figures.base import WIDTH, DescribedFigure
from heated.reporting.run_results import RunResult, Studies

KINDS = {
    "centroid": "near the centroid",
    "boundary": "near the boundary",
    "misclassified": "misclassified",
}
BANDS = (("0.1", "0.9", 0.2), ("0.25", "0.75", 0.35))  # quantiles, and opacity
GradientCurves = Mapping[str, Any]  # of one seed


def draw_gradients(results: Sequence[RunResult], studies: Studies) -> DescribedFigure | None:
    """Draw the first seed's model of every method with a gradients.json, by kind of sample."""
    paths = {result.method: result.folder / "gradients.json" for result in results}
    seeds = {name: read_json(path)["seeds"] for name, path in paths.items() if path.exists()}
    curves = {method: each[min(each, key=int)] for method, each in seeds.items()}
    if not curves:
        return None
    figure = Figure(figsize=(WIDTH, 0.5 + 2.2 * len(curves)))
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
    for low, high, opacity in BANDS:
        pair = (found["quantiles"][low], found["quantiles"][high])
        axes.fill_between(alphas, *pair, color=color, alpha=opacity, linewidth=0)
    axes.plot(alphas, found["quantiles"]["0.5"], color=color, linewidth=2)
    axes.set_xlim(0, alphas[-1])
    axes.set_ylim(bottom=0)
    axes.text(0.97, 0.95, f"n = {found['n']}", ha="right", va="top", transform=axes.transAxes)
