"""Retrieval metrics from the ranks of a query's same-class samples: (B,) float64 in [0, 1] each,
higher is better; and their means over all queries, in one pass."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from heated.common.errors import InputError
from heated.evaluation.ranking import Neighbours, Ranks
from heated.runtime.distributed import all_reduce_sum, local_shard


def recall_at(found: Ranks, k: int) -> Tensor:
    """1 where one of the query's class is among the k nearest (paper section 4); k at most the
    depth that was searched.

    >>> found = Ranks(torch.tensor([1, 3]), torch.tensor([[1], [0]]), torch.tensor([1, 1]))
    >>> recall_at(found, 1).tolist(), recall_at(found, 4).tolist()
    ([1.0, 0.0], [1.0, 1.0])
    """
    return ((found.nearest > 0) & (found.nearest <= k)).double()


def r_precision(found: Ranks) -> Tensor:
    """The share of the query's class among the R nearest, where R is how many of the class there
    are (Musgrave et al., arXiv 2003.08505).

    >>> found = Ranks(torch.tensor([1, 2]), torch.tensor([[1, 0], [2, 0]]), torch.tensor([2, 2]))
    >>> r_precision(found).tolist()
    [0.5, 0.5]
    """
    return (found.within > 0).double().sum(dim=1) / found.relevant.clamp(min=1)


def map_at_r(found: Ranks) -> Tensor:
    """(1 / R) sum of the precision at each of the R nearest places that holds the query's class
    (Musgrave et al., arXiv 2003.08505).

    >>> found = Ranks(torch.tensor([1, 2]), torch.tensor([[1, 0], [2, 0]]), torch.tensor([2, 2]))
    >>> map_at_r(found).tolist()
    [0.5, 0.25]
    """
    places = torch.arange(1, found.within.shape[1] + 1, device=found.within.device)
    precision = (places / found.within.double()).masked_fill(found.within == 0, 0)
    return precision.sum(dim=1) / found.relevant.clamp(min=1)


def without_match(found: Ranks) -> Tensor:
    """1 where the gallery holds no other sample of the query's class, a miss in every score.

    >>> without_match(Ranks(torch.tensor([1, 0]), torch.zeros(2, 1), torch.tensor([3, 0]))).tolist()
    [0.0, 1.0]
    """
    return (found.relevant == 0).double()


RETRIEVAL: dict[str, Callable[[Ranks], Tensor]] = {"map_at_r": map_at_r, "r_precision": r_precision}


@dataclass(frozen=True)
class Scores:
    """Means over all queries: `values` by name; `without_match`, the share of queries that have no
    right answer; `doubtful`, the share of all cosines that were decided in float64."""

    values: dict[str, float]
    without_match: float
    doubtful: float


def retrieval(
    embeddings: Tensor,
    labels: Tensor,
    *,
    query: Tensor | None = None,
    gallery: Tensor | None = None,
    recall_at_k: Sequence[int],
    others: bool = True,
    memory: int = 128,
    dtype: torch.dtype | None = None,
) -> Scores:
    """Compute recall at each k and, unless `others` is false, all of RETRIEVAL; processes share the
    work. Other arguments and errors: see `Neighbours`. Raises InputError also if a k is not smaller
    than the gallery."""
    size = len(labels) if gallery is None else int(gallery.sum())
    if max(recall_at_k) >= size > 0:
        raise InputError(
            f"recall at {max(recall_at_k)}: the gallery has only {size} images; "
            f"allowed: up to {size - 1}"
        )
    searched = Neighbours(
        embeddings,
        labels,
        query=query,
        gallery=gallery,
        deepest=max(recall_at_k),
        within=others,
        memory=memory,
        dtype=dtype,
    )
    metrics: dict[str, Callable[[Ranks], Tensor]] = {
        **{f"recall_at_{k}": partial(recall_at, k=k) for k in recall_at_k},
        **(RETRIEVAL if others else {}),
        "without_match": without_match,
    }
    count = len(searched.queries.sample)
    scores = torch.zeros(len(metrics), count, dtype=torch.float64, device=labels.device)
    doubtful = torch.zeros((), dtype=torch.int64, device=labels.device)
    for block in local_shard(searched.blocks()):
        found = searched.ranks(block)
        doubtful += found.doubtful
        for row, metric in zip(scores, metrics.values(), strict=True):
            row[block] = metric(found)
    means = dict(zip(metrics, all_reduce_sum(scores).mean(dim=1).tolist(), strict=True))
    return Scores(
        means, means.pop("without_match"), all_reduce_sum(doubtful).item() / (count * size)
    )
