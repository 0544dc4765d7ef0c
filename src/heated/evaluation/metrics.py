"""All metrics of embeddings by name: retrieval, clustering, class geometry; means over seeds."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from math import sqrt
from typing import Any

import numpy as np
from scipy.special import stdtrit
from torch import Tensor

from heated.common import geometry
from heated.evaluation.clustering import CLUSTERING, KMEANS
from heated.evaluation.retrieval import retrieval_metrics

# functions of (C, D), the means of the classes' unit embeddings
GEOMETRY: dict[str, Callable[[Tensor], float]] = {
    "intra_class_variance": geometry.intra_class_variance,
    "inter_class_distance": geometry.inter_class_distance,
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
    unit, labels = geometry.l2_normalize(arrays["embeddings"]), arrays["labels"]
    means = geometry.class_means(unit, labels)
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
    values: dict[str, list[float]] = defaultdict(list)
    for seed in seeds:
        clusters = KMEANS[kmeans["name"]](unit, len(np.unique(classes)), seed=seed, **options)
        for name, metric in CLUSTERING.items():
            values[name].append(metric(classes, clusters.labels.cpu().numpy()))
        values["kmeans_objective"].append(clusters.objective)
        values["kmeans_converged"].append(float(clusters.converged))
    means = {name: float(np.mean(each)) for name, each in values.items()}
    if len(seeds) > 1:
        means |= {f"{n}_kmeans_std": float(np.std(values[n], ddof=1)) for n in CLUSTERING}
    return means


def mean_with_interval(values: Mapping[int, float]) -> dict[str, Any]:
    """Compute mean, standard deviation (n - 1) and Student's 95 % confidence interval of the mean.

    Deviation and interval are None for a single seed.

    >>> mean_with_interval({0: 0.7, 1: 0.8, 2: 0.9})["interval"]  # 0.8 +- 4.303 * 0.1 / sqrt(3)
    [0.55158622882..., 1.04841377117...]
    """
    sample = np.array(list(values.values()), dtype=np.float64)
    n, mean = len(sample), float(sample.mean())
    result: dict[str, Any] = {"mean": mean, "std": None, "interval": None, "n": n}
    if n > 1:
        result["std"] = float(sample.std(ddof=1))
        half = float(stdtrit(n - 1, 0.975)) * result["std"] / sqrt(n)
        result["interval"] = [mean - half, mean + half]
    return result | {"seeds": {str(seed): value for seed, value in values.items()}}


def summarize_seeds(
    values: Mapping[int, Mapping[str, float]], engine: str | None = None
) -> dict[str, dict[str, Any]]:
    """Summarize metrics by seed and name; add the k-means engine to those that depend on it."""
    seeds, summary = sorted(values), {}
    for name in values[seeds[0]]:
        summary[name] = mean_with_interval({seed: values[seed][name] for seed in seeds})
        if engine is not None and (name in CLUSTERING or "kmeans" in name):
            summary[name]["engine"] = engine
    return summary
