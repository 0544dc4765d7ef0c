"""Every metric of a set of embeddings by its name: retrieval, clustering and geometry."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from heated.common.geometry import (
    class_means,
    inter_class_distance,
    intra_class_variance,
    l2_normalize,
)
from heated.evaluation.clustering import CLUSTERING, KMEANS
from heated.evaluation.retrieval import retrieval

Summaries = dict[str, dict[str, Any]]
# of the means (C, D) of the classes' unit embeddings
GEOMETRY: dict[str, Callable[[Tensor], float]] = {
    "compactness": intra_class_variance,
    "spread": inter_class_distance,
}


def evaluate(
    embeddings: Tensor,
    labels: Tensor,
    *,
    query: Tensor,
    gallery: Tensor,
    recall_at: Sequence[int],
    kmeans: Mapping[str, Any],
    kmeans_seeds: Sequence[int],
    memory: int,
) -> dict[str, float]:
    """Compute every metric by name: retrieval of queries in the gallery, clustering and geometry of
    all samples, and the share of queries without a match.

    embeddings: (N, D) floating, labels (N,) int64, query and gallery (N,) bool. kmeans: the name of
    an engine and its options. memory and InputError: see `retrieval`.
    """
    found = retrieval(
        embeddings, labels, query=query, gallery=gallery, recall_at_k=recall_at, memory=memory
    )
    unit = l2_normalize(embeddings)
    means = class_means(unit, labels)
    return {
        **found.values,
        **clustered(unit, labels, kmeans=kmeans, seeds=kmeans_seeds),
        **{name: metric(means) for name, metric in GEOMETRY.items()},
        "without_match": found.without_match,
    }


def clustered(
    unit: Tensor, labels: Tensor, *, kmeans: Mapping[str, Any], seeds: Sequence[int]
) -> dict[str, float]:
    """Compute means over the seeds of k-means with as many clusters as classes, and for several
    seeds each metric's standard deviation (n - 1). `kmeans_objective`: the mean squared distance of
    a unit vector to its centre; `kmeans_converged`: the share of seeds that converged."""
    options = {key: value for key, value in kmeans.items() if key != "name"}
    classes = labels.cpu().numpy()
    values: dict[str, list[float]] = {name: [] for name in CLUSTERING}
    rest: dict[str, list[float]] = {"kmeans_objective": [], "kmeans_converged": []}
    for seed in seeds:
        found = KMEANS[kmeans["name"]](unit, len(np.unique(classes)), seed=seed, **options)
        for name, metric in CLUSTERING.items():
            values[name].append(metric(classes, found.labels.cpu().numpy()))
        rest["kmeans_objective"].append(found.objective)
        rest["kmeans_converged"].append(float(found.converged))
    means = {name: float(np.mean(each)) for name, each in (values | rest).items()}
    if len(seeds) > 1:
        means |= {f"{name}_kmeans_std": float(np.std(v, ddof=1)) for name, v in values.items()}
    return means


def with_engine(summaries: Summaries, engine: str) -> Summaries:
    """Return the summaries with the engine of k-means in those that depend on it."""
    by_kmeans = [name for name in summaries if name in CLUSTERING or "kmeans" in name]
    return {**summaries, **{name: {**summaries[name], "engine": engine} for name in by_kmeans}}
