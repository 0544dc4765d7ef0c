"""Retrieval metrics: (B,) float64 in [0, 1] per query from the ranks of its R positives."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from heated.common.errors import InputError
from heated.evaluation.ranking import NeighborSearch, Ranks
from heated.runtime.distributed import all_reduce_sum, local_shard


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
    """Means over all queries."""

    values: dict[str, float]  # by metric
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
    means = dict(zip(metrics, all_reduce_sum(scores).mean(dim=1).tolist(), strict=True))
    unanswerable = means.pop("unanswerable_queries")
    return RetrievalScores(means, unanswerable, all_reduce_sum(recomputed).item() / (count * size))
