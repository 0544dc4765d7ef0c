"""Every metric of a set of embeddings by its name: retrieval, clustering and geometry."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from heated.evaluation.clustering import CLUSTERING, KMEANS
from heated.evaluation.geometry import GEOMETRY, directions
from heated.evaluation.retrieval import retrieval

Summaries = dict[str, dict[str, Any]]


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
    """Every metric by name: retrieval of queries in the gallery, clustering and geometry of all;
    and what they rest on: the share of queries without a match, and of k-means over its seeds.

    embeddings: (N, D) floating, labels (N,) int64, query and gallery (N,) bool. kmeans: the name of
    an engine and its options. memory: MiB for what grows with queries x gallery.
    InputError as from `retrieval`.
    """
    found = retrieval(
        embeddings, labels, query=query, gallery=gallery, recall_at_k=recall_at, memory=memory
    )
    unit = directions(embeddings)
    return {
        **found.values,
        **clustered(unit, labels, kmeans=kmeans, seeds=kmeans_seeds),
        **{name: metric(unit, labels) for name, metric in GEOMETRY.items()},
        "without_match": found.without_match,
    }


def clustered(
    unit: Tensor, labels: Tensor, *, kmeans: Mapping[str, Any], seeds: Sequence[int]
) -> dict[str, float]:
    """Means over the seeds of k-means with as many clusters as classes; of several seeds also each
    metric's standard deviation (n - 1). `kmeans_objective`: the mean squared distance of a unit
    vector to its centre; `kmeans_converged`: the share of seeds that came to rest."""
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
    """The summaries with the k-means that gave a number beside it."""
    return {
        name: {**summary, "engine": engine} if name in CLUSTERING or "kmeans" in name else summary
        for name, summary in summaries.items()
    }
