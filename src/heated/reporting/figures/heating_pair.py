"""Test embeddings of a method with a constant alpha and of the heated one: PCA, similarities."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from heated.common.io import read_embeddings
from heated.reporting.figures.base import WIDTH, DescribedFigure, alpha_title
from heated.reporting.figures.embeddings_2d import COLORS, Points, normalize_rows
from heated.reporting.run_results import RunResult, Studies, select_studies

PAIRS = {"hbn": "bn", "hln": "ln"}  # the method with a constant alpha, by the heated one
MAX_POINTS = 5_000  # test images in the scatter plots; more are a sample
MAX_IMAGES = 1_000  # with more test images, pairs are a sample
SAMPLE = 100_000  # pairs of each kind
BINS = np.linspace(-1, 1, 101)  # of the cosine similarity
KINDS = {"same class": "#0072B2", "other classes": "#D55E00"}
Pairs = NDArray[np.int64]  # (P, 2), rows of the embeddings


@dataclass(frozen=True)
class HeatingPair:
    """The test embeddings of one seed of two methods, constant alpha first, on the same images."""

    seed: int
    titles: dict[str, str]  # method and alpha, by method
    unit: dict[str, Points]  # (N, D), of length 1, by method
    labels: NDArray[np.int64]  # (N,)
    note: str  # on the learning rate of the heated method


def load_pair(results: Sequence[RunResult], studies: Studies) -> HeatingPair | None:
    """Load the first pair of PAIRS among the main methods with embeddings of a common seed."""
    runs = {run.method: run for run in select_studies(results, studies, "run")}
    for heated, constant in PAIRS.items():
        pair = [runs[method] for method in (constant, heated) if method in runs]
        seeds = set.intersection(*({*run.history} for run in pair)) if len(pair) == 2 else set()
        paths = [run.folder / f"embeddings/seed-{min(seeds)}.npz" for run in pair if seeds]
        if paths and all(path.exists() for path in paths):
            arrays = [read_embeddings(path) for path in paths]
            unit = [normalize_rows(each["embeddings"]) for each in arrays]
            return HeatingPair(
                seed=min(seeds),
                titles={run.method: alpha_title(run) for run in pair},
                unit=dict(zip((constant, heated), unit, strict=True)),
                labels=arrays[0]["labels"],
                note=f" {heated} also lowers the learning rate." if lowers_lr(pair[1]) else "",
            )
    return None


def draw_components(results: Sequence[RunResult], studies: Studies) -> DescribedFigure | None:
    """Draw the first two principal components of the test embeddings of both methods."""
    from sklearn.decomposition import PCA  # takes a second to import

    pair = load_pair(results, studies)
    if pair is None or any(unit.shape[1] < 2 for unit in pair.unit.values()):
        return None
    classes = colored_classes(pair.labels)
    rows = np.arange(len(pair.labels))
    if len(rows) > MAX_POINTS:
        rows = np.random.default_rng(0).choice(rows, MAX_POINTS, replace=False)
    figure, texts = Figure(figsize=(WIDTH, 3.6)), []
    for axes, (method, unit) in zip(figure.subplots(1, 2), pair.unit.items(), strict=True):
        pca = PCA(2, svd_solver="covariance_eigh").fit(unit)
        shares = " + ".join(f"{100 * share:.1f}" for share in pca.explained_variance_ratio_)
        plot_classes(axes, pca.transform(unit[rows]), pair.labels[rows], classes)
        axes.set_title(f"{pair.titles[method]}\n{shares} % of the variance")
        texts.append(f"{pair.titles[method]}, {shares} %")
    others = "" if len(classes) == len(np.unique(pair.labels)) else "; the others are gray"
    drawn = "" if len(rows) == len(pair.labels) else f", of which {len(rows)} are drawn"
    return (
        f"First two principal components of the {len(pair.labels)} test embeddings at length 1, "
        f"for seed {pair.seed}{drawn}. Each method has its own components, with this share of the "
        f"variance: {'; '.join(texts)}. The same {len(classes)} classes have the same colors"
        f"{others}.{pair.note}"
    ), figure


def lowers_lr(run: RunResult) -> bool:
    """Whether the learning rate ends lower than it starts."""
    rates = run.curve("lr")[1]
    return bool(rates) and rates[-1] < rates[0]


def colored_classes(labels: NDArray[np.int64]) -> list[int]:
    """Return all classes, or evenly spaced ones if there are more than colors.

    >>> colored_classes(np.arange(28))
    [0, 3, 6, 9, 12, 15, 18, 21, 24, 27]
    """
    classes = np.unique(labels)
    count = min(len(classes), len(COLORS))
    return [int(c) for c in classes[np.linspace(0, len(classes) - 1, count).round().astype(int)]]


def plot_classes(
    axes: Axes, points: Points, labels: NDArray[np.int64], classes: Sequence[int]
) -> None:
    """Plot points (N, 2), those of the classes in their colors above the gray ones."""
    found = np.isin(labels, classes)
    colors = dict(zip(classes, COLORS, strict=False))
    # Rasterized, so that files with thousands of points stay small.
    style: dict[str, Any] = {"s": 10, "linewidths": 0, "rasterized": True}
    (x, y), (others_x, others_y) = points[found].T, points[~found].T
    axes.scatter(others_x, others_y, color="#cccccc", **style)
    shades = [colors[int(label)] for label in labels[found]]
    axes.scatter(x, y, c=shades, alpha=0.6, **style)
    axes.set_aspect("equal", adjustable="datalim")
    axes.tick_params(labelbottom=False, labelleft=False, length=0)


def draw_similarities(results: Sequence[RunResult], studies: Studies) -> DescribedFigure | None:
    """Draw the cosines of pairs of the same class and of other classes for both methods."""
    pair = load_pair(results, studies)
    if pair is None or not has_both_kinds(pair.labels):
        return None
    pairs = choose_pairs(pair.labels, np.random.default_rng(0))
    figure, texts = Figure(figsize=(WIDTH, 3.2)), []
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    for axes, (method, unit) in zip(panels, pair.unit.items(), strict=True):
        cosines = [pair_cosines(unit, each) for each in pairs]
        auc = area_under_curve(*cosines)
        for values, (kind, color) in zip(cosines, KINDS.items(), strict=True):
            heights = np.histogram(np.clip(values, -1, 1), BINS, density=True)[0]
            axes.stairs(heights, BINS, fill=True, color=color, alpha=0.5, label=kind)
            axes.axvline(values.mean(), color=color, linestyle=":")
        axes.set(title=f"{pair.titles[method]}\nAUC {auc:.3f}", xlabel="cosine similarity")
        means = " and ".join(f"{values.mean():.3f}" for values in cosines)
        texts.append(f"{pair.titles[method]}, means {means}, AUC {auc:.3f}")
    panels[0].set_ylabel("density")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    chosen = "All" if len(pair.labels) <= MAX_IMAGES else "A random sample of"
    counts = " and ".join(f"{len(each):,}" for each in pairs)
    return (
        "Cosine similarity of test images, a pair of the same class and a pair of other classes: "
        f"{'; '.join(texts)}. Dotted lines are the means. The AUC is how often a pair of the same "
        f"class is more similar than a pair of other classes. {chosen} {counts} pairs, for seed "
        f"{pair.seed}.{pair.note}"
    ), figure


def has_both_kinds(labels: NDArray[np.int64]) -> bool:
    """Whether there are pairs of the same class and pairs of other classes."""
    counts = np.unique(labels, return_counts=True)[1]
    return len(counts) > 1 and bool(counts.max() > 1)


def choose_pairs(labels: NDArray[np.int64], random: np.random.Generator) -> tuple[Pairs, Pairs]:
    """Return pairs of the same class and of other classes: all, or SAMPLE of each kind.

    Sampled pairs are equally likely, and drawn with replacement.
    """
    size = len(labels)
    if size <= MAX_IMAGES:
        every = np.stack(np.triu_indices(size, 1), axis=1)
        same = labels[every[:, 0]] == labels[every[:, 1]]
        return every[same], every[~same]
    order = np.argsort(labels, kind="stable")  # a class is a range of places in it
    _, first, inverse, counts = np.unique(
        labels[order], return_index=True, return_inverse=True, return_counts=True
    )
    start, count = first[inverse], counts[inverse]  # of the class at each place
    partners = count - 1, size - count
    # A place is drawn in proportion to its number of partners.
    places = [random.choice(size, SAMPLE, p=each / each.sum()) for each in partners]
    steps = [random.integers(each[at]) for each, at in zip(partners, places, strict=True)]
    inside, outside = places
    same = start[inside] + (inside - start[inside] + 1 + steps[0]) % count[inside]
    other = (start[outside] + count[outside] + steps[1]) % size
    return order[np.stack([inside, same], axis=1)], order[np.stack([outside, other], axis=1)]


def pair_cosines(unit: Points, pairs: Pairs) -> NDArray[np.float64]:
    """Return the cosine similarity (P,) of each pair of rows."""
    parts = np.array_split(pairs, 1 + len(pairs) * unit.shape[1] // 2**22)  # for memory
    return np.concatenate([np.einsum("pd,pd->p", *unit[part.T]) for part in parts])


def area_under_curve(positives: NDArray[np.float64], negatives: NDArray[np.float64]) -> float:
    """Return the share of (positive, negative) whose positive is larger; a tie counts half."""
    from sklearn.metrics import roc_auc_score  # takes a second to import

    is_positive = np.repeat([True, False], [len(positives), len(negatives)])
    return float(roc_auc_score(is_positive, np.concatenate([positives, negatives])))
