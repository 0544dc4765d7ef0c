"""What the ranks of same-class samples say: a float in [0, 1] each, higher is better."""

from collections.abc import Callable

import torch
from torch import Tensor

from heated.neighbours import Ranks


def recall_at(found: Ranks, k: int) -> float:
    """Share of queries with one of their class among the k nearest (paper section 4).

    >>> found = Ranks(torch.tensor([[1, 2], [3, 0]]), torch.tensor([2, 1]))
    >>> recall_at(found, 1), recall_at(found, 4)
    (0.5, 1.0)
    """
    first = found.ranks[:, 0]
    return ((first > 0) & (first <= k)).double().mean().item()


def r_precision(found: Ranks) -> float:
    """Mean over queries of the share of their class among the R nearest, R being how many of the
    class there are (Musgrave et al., arXiv 2003.08505).

    >>> r_precision(Ranks(torch.tensor([[1, 3], [1, 2]]), torch.tensor([2, 2])))
    0.75
    """
    return within_r(found).double().sum(dim=1).div(found.relevant.clamp(min=1)).mean().item()


def map_at_r(found: Ranks) -> float:
    """Mean over queries of (1 / R) sum of the precision at each of the R nearest places that holds
    the query's class (Musgrave et al., arXiv 2003.08505).

    >>> map_at_r(Ranks(torch.tensor([[1, 3], [1, 2]]), torch.tensor([2, 2])))
    0.75
    >>> map_at_r(Ranks(torch.tensor([[2, 3]]), torch.tensor([2])))
    0.25
    """
    places = torch.arange(1, found.ranks.shape[1] + 1, device=found.ranks.device)
    precision = places / found.ranks.clamp(min=1).double() * within_r(found)
    return precision.sum(dim=1).div(found.relevant.clamp(min=1)).mean().item()


def within_r(found: Ranks) -> Tensor:
    """(Q, R) bool: the ranks that are at most the query's number of same-class samples."""
    return (found.ranks > 0) & (found.ranks <= found.relevant[:, None])


RETRIEVAL: dict[str, Callable[[Ranks], float]] = {"map_at_r": map_at_r, "r_precision": r_precision}
