"""All metrics of embeddings by name: retrieval, clustering, class geometry; means over seeds."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import sqrt
from typing import Any

import numpy as np
import torch
from scipy.special import stdtrit
from torch import Tensor

from heated.common import geometry
from heated.common.errors import InputError
from heated.evaluation.clustering import CLUSTERING, KMEANS
from heated.evaluation.ranking import NeighborSearch, Ranks
from heated.runtime.distributed import all_reduce_sum, local_shard

# functions of (C, D), the means of the classes' unit embeddings
GEOMETRY: dict[str, Callable[[Tensor], float]] = {
    "intra_class_variance": geometry.intra_class_variance,
    "inter_class_distance": geometry.inter_class_distance,
}


def evaluate(arrays: Mapping[str, Any], **settings: Any) -> dict[str, float]:
    """Compute every metric by name; see `evaluate_by_class` for the arguments."""
    return evaluate_by_class(arrays, **settings)[0]


def evaluate_by_class(
    arrays: Mapping[str, Any],
    *,
    recall_at: Sequence[int],
    kmeans: Mapping[str, Any],
    kmeans_seeds: Sequence[int],
    memory_mib: int,
) -> tuple[dict[str, float], list[dict[str, float]]]:
    """Compute every metric by name, and `RetrievalScores.by_class`.

    Retrieval is in the gallery, the rest of all samples. `arrays` has `embeddings` (N, D), `labels`
    (N,) int64, `query` and `gallery` (N,) bool. For the other arguments and for errors see
    `retrieval_metrics` and `clustering_metrics`.
    """
    retrieval = retrieval_metrics(**arrays, recall_at_k=recall_at, memory_mib=memory_mib)
    unit, labels = geometry.l2_normalize(arrays["embeddings"]), arrays["labels"]
    means = geometry.class_means(unit, labels)
    values = {
        **retrieval.values,
        **clustering_metrics(unit, labels, kmeans=kmeans, seeds=kmeans_seeds),
        **{name: metric(means) for name, metric in GEOMETRY.items()},
        "unanswerable_queries": retrieval.unanswerable_queries,
    }
    return values, retrieval.by_class


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


def recall_at(ranks: Ranks, k: int) -> Tensor:
    """Compute Recall@K: 1 if a positive is among the K nearest, else 0 (paper, section 4).

    >>> ranks = Ranks(torch.tensor([1, 3]), torch.tensor([[1], [0]]), torch.tensor([1, 1]))
    >>> recall_at(ranks, 1).tolist(), recall_at(ranks, 4).tolist()
    ([1.0, 0.0], [1.0, 1.0])
    """
    return ((ranks.nearest > 0) & (ranks.nearest <= k)).double()


def r_precision(ranks: Ranks) -> Tensor:
    """Compute the share of positives among the R nearest (Musgrave et al., arXiv 2003.08505)."""
    return (ranks.within_r > 0).double().sum(dim=1) / ranks.num_positives.clamp(min=1)


def map_at_r(ranks: Ranks) -> Tensor:
    """Compute MAP@R: 1 / R sum of precision at i over the ranks i <= R of positives (same paper).

    >>> ranks = Ranks(torch.tensor([1, 2]), torch.tensor([[1, 0], [2, 0]]), torch.tensor([2, 2]))
    >>> map_at_r(ranks).tolist()
    [0.5, 0.25]
    """
    places = torch.arange(1, ranks.within_r.shape[1] + 1, device=ranks.within_r.device)
    precision = (places / ranks.within_r.double()).masked_fill(ranks.within_r == 0, 0)
    return precision.sum(dim=1) / ranks.num_positives.clamp(min=1)


RETRIEVAL: dict[str, Callable[[Ranks], Tensor]] = {"map_at_r": map_at_r, "r_precision": r_precision}


@dataclass(frozen=True)
class RetrievalScores:
    """Means over all queries, and over those of each class that has queries."""

    values: dict[str, float]  # by metric
    by_class: list[dict[str, float]]  # rows of `label`, number of `queries`, and each metric
    unanswerable_queries: float  # the share of queries without positives
    recomputed_share: float  # the share of all cosines that were computed in float64


def retrieval_metrics(
    embeddings: Tensor,
    labels: Tensor,
    *,
    recall_at_k: Sequence[int],
    with_map_at_r: bool = True,
    **search: Any,
) -> RetrievalScores:
    """Compute Recall@K for each K, MAP@R and R-precision. The processes of `torchrun` share it.

    Args:
        embeddings: (N, D) floating point, of any length.
        labels: (N,) int64.
        recall_at_k: Each K, smaller than the gallery; else InputError.
        with_map_at_r: Whether to compute the metrics in RETRIEVAL too.
        search: `query`, `gallery`, `memory_mib` and `dtype` of `NeighborSearch`.
    """
    max_k = max(recall_at_k)
    neighbors = NeighborSearch(
        embeddings, labels, max_k=max_k, rank_all_positives=with_map_at_r, **search
    )
    count, size = len(neighbors.queries.index), len(neighbors.sorted_gallery)
    if max_k >= size:
        raise InputError(
            f"recall_at: got {max_k}, expected at most {size - 1}. The gallery has {size} images."
        )
    metrics: dict[str, Callable[[Ranks], Tensor]] = {
        **{f"recall_at_{k}": partial(recall_at, k=k) for k in recall_at_k},
        **(RETRIEVAL if with_map_at_r else {}),
        "unanswerable_queries": lambda ranks: (ranks.num_positives == 0).double(),
    }
    scores = torch.zeros(len(metrics), count, dtype=torch.float64, device=labels.device)
    recomputed = torch.zeros((), dtype=torch.int64, device=labels.device)
    for block in local_shard(neighbors.blocks):
        ranks = neighbors.ranks(block)
        recomputed += ranks.num_recomputed
        for row, metric in zip(scores, metrics.values(), strict=True):
            row[block] = metric(ranks)
    scores = all_reduce_sum(scores)
    means = dict(zip(metrics, scores.mean(dim=1).tolist(), strict=True))
    unanswerable = means.pop("unanswerable_queries")
    # the queries are in the order of their labels
    found, counts = labels[neighbors.queries.index].unique_consecutive(return_counts=True)
    by_class = torch.segment_reduce(scores, "mean", lengths=counts.expand(len(scores), -1), axis=1)
    columns = ("label", "queries", *metrics)
    rows = zip(found.tolist(), counts.tolist(), *by_class.tolist(), strict=True)
    classes = [dict(zip(columns, row, strict=True)) for row in rows]
    recomputed_share = all_reduce_sum(recomputed).item() / (count * size)
    return RetrievalScores(means, classes, unanswerable, recomputed_share)
