"""Neighbour galleries: a few queries of a trained method with what is found nearest to them.

Queries are ordered by MAP@R (Musgrave et al., arXiv 2003.08505), over all queries: *best* are the
highest, *worst* the lowest, *typical* those next to the median. Equal ones are ordered by how many
images of the class there are to be found (more first: harder to have all, worse to have none), then
by their number. Of a class only the first is shown of each kind, unless there are too few classes.
Queries that nothing in the gallery matches are left out.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from heated.common.geometry import l2_normalize
from heated.evaluation.ranking import GRID, Neighbours
from heated.evaluation.retrieval import map_at_r

NEAREST = 5
KINDS = ("best", "typical", "worst")
Numbers = NDArray[np.int64]
Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Shown:
    """A query and its nearest, nearest first, as rows of the embeddings; `right` says of which
    class each of the nearest is: the query's or another."""

    kind: str
    query: int
    score: float
    nearest: list[int]
    right: list[bool]


def gallery(arrays: Mapping[str, NDArray[Any]], *, count: int, memory: int) -> list[Shown]:
    """`count` queries of each kind, with their nearest in the gallery.

    arrays: what an embeddings file holds: embeddings (N, D), labels (N,), query and gallery (N,).
    memory: MiB for what grows with queries x gallery.
    """
    given = {name: torch.from_numpy(array) for name, array in arrays.items()}
    queries, scores, relevant = scored(given, memory)
    labels = arrays["labels"]
    chosen = {
        kind: chosen_of(order(queries, scores, relevant), queries, labels, count)
        for kind, order in ORDERS.items()
    }
    value = dict(zip(queries.tolist(), scores.tolist(), strict=True))
    return [
        Shown(kind, query, value[query], nearest, [labels[n] == labels[query] for n in nearest])
        for kind, numbers in chosen.items()
        for query, nearest in zip(numbers, neighbours(given, numbers), strict=True)
    ]


def scored(given: Mapping[str, Tensor], memory: int) -> tuple[Numbers, Scores, Numbers]:
    """Number, MAP@R and R of each query that can be answered, by rising number."""
    searched = Neighbours(
        given["embeddings"],
        given["labels"],
        query=given["query"],
        gallery=given["gallery"],
        deepest=1,
        memory=memory,
    )
    found = [searched.ranks(block) for block in searched.blocks()]
    queries = searched.queries.sample
    scores = torch.cat([map_at_r(ranks) for ranks in found])
    relevant = searched.queries.relevant
    order = queries.argsort()
    order = order[relevant[order] > 0]
    return queries[order].numpy(), scores[order].numpy(), relevant[order].numpy()


def best(queries: Numbers, scores: Scores, relevant: Numbers) -> Numbers:
    """Places of the queries, best first."""
    return np.lexsort((queries, -relevant, -scores))


def typical(queries: Numbers, scores: Scores, relevant: Numbers) -> Numbers:
    """Places of the queries, nearest to the median first."""
    return np.lexsort((queries, -relevant, np.abs(scores - np.median(scores))))


def worst(queries: Numbers, scores: Scores, relevant: Numbers) -> Numbers:
    """Places of the queries, worst first."""
    return np.lexsort((queries, -relevant, scores))


ORDERS: dict[str, Callable[[Numbers, Scores, Numbers], Numbers]] = {
    "best": best,
    "typical": typical,
    "worst": worst,
}


def chosen_of(order: Numbers, queries: Numbers, labels: Numbers, count: int) -> list[int]:
    """The first `count` queries in this order, of different classes as long as there are any."""
    ordered = queries[order]
    firsts = np.sort(np.unique(labels[ordered], return_index=True)[1])
    rest = np.setdiff1d(np.arange(len(ordered)), firsts)
    return [int(query) for query in ordered[[*firsts, *rest][:count]]]


def neighbours(given: Mapping[str, Tensor], queries: Sequence[int]) -> list[list[int]]:
    """The nearest of each query in the gallery by cosine, itself left out; of equally near ones
    those of other classes first, then by number."""
    unit, labels = l2_normalize(given["embeddings"]), given["labels"].numpy()
    numbers = np.flatnonzero(given["gallery"].numpy())
    found = []
    for query in queries:
        others = numbers[numbers != query]
        cosines = np.rint((unit[others] @ unit[query]).numpy() * GRID)
        order = np.lexsort((others, labels[others] == labels[query], -cosines))
        found.append(others[order[:NEAREST]].tolist())
    return found
