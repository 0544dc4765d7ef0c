"""All metrics of a set of embeddings by name: retrieval, clustering and class geometry."""

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
from heated.evaluation.retrieval import retrieval_metrics

# functions of (C, D), the means of the classes' unit embeddings
GEOMETRY: dict[str, Callable[[Tensor], float]] = {
    "intra_class_variance": intra_class_variance,
    "inter_class_distance": inter_class_distance,
}


def evaluate(
    arrays: Mapping[str, Any],
    *,
    recall_at: Sequence[int],
    kmeans: Mapping[str, Any],
    kmeans_seeds: Sequence[int],
    memory_mib: int,
) -> dict[str, float]:
    """Compute every metric by name: retrieval in the gallery, the rest of all samples.

    `arrays` has `embeddings` (N, D), `labels` (N,) int64, `query` and `gallery` (N,) bool. See
    `retrieval_metrics` and `clustering_metrics` for the other arguments and for errors.
    """
    retrieval = retrieval_metrics(**arrays, recall_at_k=recall_at, memory_mib=memory_mib)
    unit, labels = l2_normalize(arrays["embeddings"]), arrays["labels"]
    means = class_means(unit, labels)
    return {
        **retrieval.values,
        **clustering_metrics(unit, labels, kmeans=kmeans, seeds=kmeans_seeds),
        **{name: metric(means) for name, metric in GEOMETRY.items()},
        "unanswerable_queries": retrieval.unanswerable_queries,
    }


def clustering_metrics(
    unit: Tensor, labels: Tensor, *, kmeans: Mapping[str, Any], seeds: Sequence[int]
) -> dict[str, float]:
    """Cluster by k-means, with one cluster per class, and compare the clusters with the classes.

    `unit` is (N, D) float64 of length 1. `kmeans` has the engine's `name` in KMEANS, and its
    options. Metrics are means over `seeds`; for several, `<metric>_kmeans_std` is the standard
    deviation (n - 1).
    """
    options = {key: value for key, value in kmeans.items() if key != "name"}
    classes = labels.cpu().numpy()
    values: dict[str, list[float]] = {name: [] for name in CLUSTERING}
    diagnostics: dict[str, list[float]] = {"kmeans_objective": [], "kmeans_converged": []}
    for seed in seeds:
        clusters = KMEANS[kmeans["name"]](unit, len(np.unique(classes)), seed=seed, **options)
        for name, metric in CLUSTERING.items():
            values[name].append(metric(classes, clusters.labels.cpu().numpy()))
        diagnostics["kmeans_objective"].append(clusters.objective)
        diagnostics["kmeans_converged"].append(float(clusters.converged))
    means = {name: float(np.mean(each)) for name, each in (values | diagnostics).items()}
    if len(seeds) > 1:
        means |= {f"{name}_kmeans_std": float(np.std(v, ddof=1)) for name, v in values.items()}
    return means
