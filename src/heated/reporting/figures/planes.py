"""Embeddings in two dimensions, as in the paper: the test images' directions on the unit circle."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D
from matplotlib.patches import Circle
from numpy.typing import NDArray
from safetensors import safe_open

from heated.common.io import read_arrays, required
from heated.reporting.figures.base import (
    STYLE,
    Drawing,
    Studies,
    canvas,
    of_studies,
    schedule,
    svg,
)
from heated.reporting.results import Result

# P. Tol's "muted", with black: ten that are told apart with every kind of colour vision.
COLOURS = (
    "#332288", "#DDCC77", "#117733", "#CC6677", "#88CCEE",
    "#000000", "#44AA99", "#882255", "#999933", "#AA4499",
)  # fmt: skip
RADIUS = 0.9  # of the class weights, as in the paper
LABEL_RADIUS = 0.68
GAP = 0.24  # between labels, in radians
A_ROW = 2
Points = NDArray[np.float64]


@dataclass(frozen=True)
class Plane:
    """One run's test images (N, 2), of length 1, with labels (N,); the directions (C, 2) of the
    class weights where the tested classes are those that were trained."""

    result: Result
    points: Points
    labels: NDArray[np.int64]
    weights: Points | None


def planes(results: Sequence[Result], studies: Studies) -> Drawing | None:
    """The first seed of the study's runs in two dimensions, constant alphas first, by rising alpha;
    None where there is none."""
    study = of_studies(results, studies, "planes")
    shown = [result for result in study if result.params.get("embedding_dim") == 2]
    return drawing([plane(result) for result in sorted(shown, key=order)]) if shown else None


def order(result: Result) -> tuple[bool, float]:
    """Constant alphas first, the smaller before the larger."""
    alpha = schedule(result, "alpha")
    return alpha["name"] != "constant", alpha.get("value", 0.0)


@style.context(STYLE)
def by_epoch(result: Result, seed: int) -> dict[int, str]:
    """A picture, SVG, of each look at a seed's unseen classes while it was trained; none where
    embeddings have more dimensions than two."""
    path = result.folder / "models" / f"seed-{seed}.npz"
    if not path.exists():
        return {}
    arrays, found = read_arrays(path), {}
    alphas = dict(zip(*result.curve("alpha"), strict=True))
    for epoch, angles in zip(arrays["epochs"].tolist(), arrays["angles"], strict=True):
        title = f"{result.method}, seed {seed}: epoch {epoch}, alpha {alphas[epoch]:g}"
        sheet = canvas(3.9)
        circle(sheet.subplots(), Plane(result, on_circle(angles), arrays["labels"], None), title)
        found[epoch] = svg(sheet, title)
    return found


def plane(result: Result) -> Plane:
    """What is drawn of a run; FileNotFoundError names the stage that makes a missing file."""
    name = f"seed-{min(result.history)}"
    arrays = read_arrays(required(result.folder / "embeddings" / f"{name}.npz", "embed"))
    path = required(result.folder / "models" / f"{name}.safetensors", "train")
    with safe_open(path, "numpy") as file:
        weights = file.get_tensor("head.weight")
    trained = np.array_equal(np.unique(arrays["labels"]), np.arange(len(weights)))
    points = directions(arrays["embeddings"])
    return Plane(result, points, arrays["labels"], directions(weights) if trained else None)


def directions(vectors: NDArray[np.float32]) -> Points:
    """(N, 2) of length 1; one of length 0 stays as it is."""
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    return vectors / np.where(lengths == 0, 1, lengths)


def on_circle(angles: Points) -> Points:
    """The points (N, 2) of the unit circle at these angles (N,)."""
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def angle(plane: Plane) -> float:
    """Degrees between a test image and the mean direction of its class: the median over images."""
    numbers = np.unique(plane.labels, return_inverse=True)[1]
    sums = np.zeros((numbers.max() + 1, 2))
    np.add.at(sums, numbers, plane.points)
    cosines = (plane.points * directions(sums)[numbers]).sum(axis=1)
    return float(np.degrees(np.median(np.arccos(np.clip(cosines, -1, 1)))))


def drawing(planes: Sequence[Plane]) -> Drawing:
    """The panels, with how wide the classes are in words."""
    rows = -(-len(planes) // A_ROW)
    sheet = canvas(0.5 + 3.4 * rows)
    panels = list(sheet.subplots(rows, A_ROW, squeeze=False).flat)
    for axes in panels:
        axes.set_axis_off()
    for axes, shown in zip(panels, planes, strict=False):
        circle(axes, shown, heading(shown.result))
    handles = [
        Line2D([], [], color="#555555", linestyle="none", marker=marker, label=label)
        for marker, label in ((".", "a test image"), ("D", "the weights of a class"))
    ]
    sheet.legend(handles=handles, loc="outside lower center", ncols=2)
    spreads = "; ".join(f"{heading(p.result)}: {angle(p):.1f}°" for p in planes)
    diamonds = ", diamonds their class weights" if planes[0].weights is not None else ""
    return (
        f"The directions of all {len(planes[0].labels)} test images on the unit circle, coloured "
        f"by their {len(np.unique(planes[0].labels))} classes{diamonds}; the first seed of each "
        f"method. Median angle to the mean direction of the class: {spreads}."
    ), sheet


def heading(result: Result) -> str:
    """The method with its alpha."""
    alphas = result.curve("alpha")[1]
    ends = dict.fromkeys((alphas[0], alphas[-1]))
    return f"{result.method}: alpha {', then '.join(f'{alpha:g}' for alpha in ends)}"


def circle(axes: Axes, plane: Plane, title: str) -> None:
    """The unit circle with all test images, and the class weights inside, with their numbers; the
    points are one image, so that thousands stay small."""
    axes.add_patch(Circle((0, 0), 1, fill=False, color="#cccccc", linewidth=0.6))
    x, y = plane.points.T
    colours = [COLOURS[label % len(COLOURS)] for label in plane.labels]
    axes.scatter(x, y, s=14, c=colours, alpha=0.3, linewidths=0, rasterized=True)
    axes.set(aspect="equal", xlim=(-1.08, 1.08), ylim=(-1.08, 1.08))
    axes.set_title(f"{title}\nhalf within {angle(plane):.1f}° of their mean")
    if plane.weights is not None:
        diamonds(axes, plane.weights)


def diamonds(axes: Axes, weights: Points) -> None:
    """Each class's weights, with a line to the class's number."""
    places = LABEL_RADIUS * on_circle(fanned(np.arctan2(weights[:, 1], weights[:, 0]), GAP))
    for label, (weight, place) in enumerate(zip(RADIUS * weights, places, strict=True)):
        colour = np.array(to_rgb(COLOURS[label % len(COLOURS)]))
        axes.plot(*zip(weight, (place + weight) / 2, strict=True), color=colour, linewidth=0.8)
        axes.plot(*weight, "D", color=colour, markersize=6, markeredgecolor="white", zorder=3)
        centered: Any = {"ha": "center", "va": "center"}
        axes.annotate(str(label), place, color=0.7 * colour, weight="bold", **centered)


def fanned(angles: Points, gap: float) -> Points:
    """Angles (C,) in the same order around the circle, moved no more than it takes to have `gap`
    between neighbours, or as much as there is room for.

    >>> fanned(np.array([0.0, 0.1, 2.0]), 0.3).round(3).tolist()
    [-0.1, 0.2, 2.0]
    """
    order = np.argsort(angles, kind="stable")
    turned, gap = angles[order], min(gap, 2 * np.pi / len(angles))
    for _ in range(2000):
        following = np.append(turned[1:], turned[0] + 2 * np.pi)
        push = np.maximum(gap - (following - turned), 0) / 2
        if push.max() < 1e-9:
            break
        turned = turned - push + np.roll(push, 1)
    moved = np.empty_like(angles)
    moved[order] = turned
    return moved
