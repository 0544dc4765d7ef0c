"""Two-dimensional embeddings of the test images on the unit circle, as in the paper's figures."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle
from numpy.typing import NDArray
from safetensors import safe_open

from heated.common.io import read_arrays, read_embeddings, require_output
from heated.reporting.figures.base import (
    WIDTH,
    DescribedFigure,
    alpha_title,
    report_style,
    schedule_of,
    svg_text,
)
from heated.reporting.run_results import RunResult, Studies, select_studies

# P. Tol's "muted" with black: distinguishable with every kind of color vision.
COLORS = (
    "#332288", "#DDCC77", "#117733", "#CC6677", "#88CCEE",
    "#000000", "#44AA99", "#882255", "#999933", "#AA4499",
)  # fmt: skip
LABEL_GAP = 0.24  # radians between labels
Points = NDArray[np.float64]


@dataclass(frozen=True)
class Embedding2D:
    """The two-dimensional embeddings of one run's test images."""

    result: RunResult
    points: Points  # (N, 2), on the unit circle
    labels: NDArray[np.int64]  # (N,)
    weights: Points | None = None  # (C, 2), normalized; None if the classes were not trained

    def median_angle(self) -> float:
        """Return the median angle between a test image and the mean of its class, in degrees."""
        classes = np.unique(self.labels, return_inverse=True)[1]
        sums = np.zeros((classes.max() + 1, 2))
        np.add.at(sums, classes, self.points)
        cosines = (self.points * normalize_rows(sums)[classes]).sum(axis=1)
        return float(np.degrees(np.median(np.arccos(np.clip(cosines, -1, 1)))))


def draw_embeddings(results: Sequence[RunResult], studies: Studies) -> DescribedFigure | None:
    """Draw the first seed of each two-dimensional run of the study, None if there is none."""
    runs = select_studies(results, studies, "embeddings_2d")
    embeddings = load_embeddings([run for run in runs if run.params.get("embedding_dim") == 2])
    if not embeddings:
        return None
    rows = -(-len(embeddings) // 2)
    figure = Figure(figsize=(WIDTH, 0.5 + 3.4 * rows))
    panels = list(figure.subplots(rows, 2, squeeze=False).flat)
    for axes in panels:
        axes.set_axis_off()
    texts = []
    for axes, each in zip(panels, embeddings, strict=False):
        title = alpha_title(each.result)
        plot_circle(axes, each, title)
        texts.append(f"{title}: {each.median_angle():.1f}°")
    handles = [
        Line2D([], [], color="#555555", linestyle="none", marker=marker, label=label)
        for marker, label in ((".", "test image"), ("D", "class weight"))
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    labels = embeddings[0].labels
    diamonds = "" if embeddings[0].weights is None else " Diamonds are the class weights."
    return (
        f"Directions of all {len(labels)} test images on the unit circle, colored by "
        f"{len(np.unique(labels))} classes, for the first seed of each method.{diamonds} Median "
        f"angle to the mean direction of the class: {'; '.join(texts)}."
    ), figure


def load_embeddings(results: Sequence[RunResult]) -> list[Embedding2D]:
    """Load the first seed of each run: constant alphas by increasing alpha, then the others."""
    found = []
    for result in sorted(results, key=lambda each: schedule_of(each, "alpha").get("value", inf)):
        name = f"seed-{min(result.history)}"
        arrays = read_embeddings(require_output(result.folder / f"embeddings/{name}.npz", "embed"))
        path = require_output(result.folder / f"models/{name}.safetensors", "train")
        with safe_open(path, "numpy") as file:
            weights = file.get_tensor("head.weight")
        labels, points = arrays["labels"], normalize_rows(arrays["embeddings"])
        trained = np.array_equal(np.unique(labels), np.arange(len(weights)))
        directions = normalize_rows(weights) if trained else None
        found.append(Embedding2D(result, points, labels, directions))
    return found


@report_style()
def draw_epoch_embeddings(result: RunResult, seed: int) -> dict[int, str]:
    """Draw a seed's two-dimensional embeddings during training, if any, as SVG text by epoch."""
    path = result.folder / "models" / f"seed-{seed}.npz"
    if not path.exists():
        return {}
    arrays, found = read_arrays(path), {}
    alphas = dict(zip(*result.curve("alpha"), strict=True))
    for epoch, angles in zip(arrays["epochs"].tolist(), arrays["angles"], strict=True):
        title = f"{result.method}, seed {seed}: epoch {epoch}, alpha {alphas[epoch]:g}"
        figure = Figure(figsize=(WIDTH, 3.9))
        points = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        plot_circle(figure.subplots(), Embedding2D(result, points, arrays["labels"]), title)
        found[epoch] = svg_text(figure, title)
    return found


def normalize_rows(vectors: NDArray[Any]) -> Points:
    """Scale vectors (N, D) to length 1; zero vectors stay unchanged."""
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    return vectors / np.where(lengths == 0, 1, lengths)


def plot_circle(axes: Axes, embedding: Embedding2D, title: str) -> None:
    """Plot the unit circle with all test images and the labeled class weights."""
    axes.add_patch(Circle((0, 0), 1, fill=False, color="#cccccc", linewidth=0.6))
    x, y = embedding.points.T
    colors = [COLORS[label % len(COLORS)] for label in embedding.labels]
    # Rasterized, so that files with thousands of points stay small.
    axes.scatter(x, y, s=14, c=colors, alpha=0.3, linewidths=0, rasterized=True)
    axes.set(aspect="equal", xlim=(-1.08, 1.08), ylim=(-1.08, 1.08))
    axes.set_title(f"{title}\nhalf within {embedding.median_angle():.1f}° of the class mean")
    weights = np.empty((0, 2)) if embedding.weights is None else embedding.weights
    angles = spread_angles(np.arctan2(weights[:, 1], weights[:, 0]), LABEL_GAP)
    places = 0.68 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    # The paper has the class weights at radius 0.9.
    for label, (weight, place) in enumerate(zip(0.9 * weights, places, strict=True)):
        color = np.array(to_rgb(COLORS[label % len(COLORS)]))
        axes.plot(*zip(weight, (place + weight) / 2, strict=True), color=color, linewidth=0.8)
        axes.plot(*weight, "D", color=color, markersize=6, markeredgecolor="white", zorder=3)
        axes.annotate(str(label), place, color=0.7 * color, weight="bold", ha="center", va="center")


def spread_angles(angles: Points, gap: float) -> Points:
    """Move angles (C,) apart by `gap`, or as far as there is room, and keep their order.

    >>> spread_angles(np.array([0.0, 0.1, 2.0]), 0.3).round(3).tolist()
    [-0.1, 0.2, 2.0]
    """
    order = np.argsort(angles, kind="stable")
    moved, gap = angles[order], min(gap, 2 * np.pi / max(1, len(angles)))
    for _ in range(2000 if len(angles) else 0):
        following = np.append(moved[1:], moved[0] + 2 * np.pi)
        push = np.maximum(gap - (following - moved), 0) / 2
        if push.max() < 1e-9:
            break
        moved = moved - push + np.roll(push, 1)
    return moved[np.argsort(order)]
