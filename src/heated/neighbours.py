"""Exact ranks of each query's same-class samples among all others, in blocks, on any device.

Nearness is cosine similarity, which orders unit vectors as Euclidean distance does. Rules:
- A sample is never its own neighbour, also where it is both query and gallery.
- Ties count against the query: of samples equally near, those of other classes stand first. So
  a network that maps everything to one point scores nothing, and no score depends on the order
  of the samples. Cosines are taken in float64 and rounded to multiples of 2^-24, float32's
  resolution at 1; equal then is a tie. An embedding of length 0 has cosine 0 with everything.
- A query without another sample of its class in the gallery has no ranks; it scores 0.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from heated.errors import InputError

GRID = 2**24


@dataclass(frozen=True)
class Ranks:
    """For Q queries: `ranks` (Q, R) int64, those of the same-class samples, from 1, nearest first,
    padded with 0; `relevant` (Q,) int64, how many same-class samples the gallery holds."""

    ranks: Tensor
    relevant: Tensor


def same_class_ranks(
    embeddings: Tensor,
    labels: Tensor,
    *,
    query: Tensor | None = None,
    gallery: Tensor | None = None,
    nearest: int | None = None,
    block: int = 1024,
) -> Ranks:
    """Ranks in the gallery, for every query in order.

    embeddings: (N, D), of any length; labels: (N,) int64. query, gallery: (N,) bool, all
    samples by default. nearest: only the ranks of so many same-class samples. block: queries at a
    time; memory is 30 bytes x block x gallery.
    InputError when embeddings are not finite or differ from labels in number, or when there is
    no query or no gallery.
    """
    checked(embeddings, labels)
    everything = torch.ones(len(labels), dtype=torch.bool, device=labels.device)
    queries = torch.nonzero(everything if query is None else query)[:, 0]
    others = torch.nonzero(everything if gallery is None else gallery)[:, 0]
    if not len(queries) or not len(others):
        raise InputError(f"came {len(queries)} queries and {len(others)} in the gallery")
    own = torch.full_like(labels, -1).index_copy_(0, others, torch.arange(len(others)).to(others))
    counts = torch.bincount(labels[others], minlength=int(labels.max()) + 1)
    relevant = counts[labels[queries]] - (own[queries] >= 0).long()
    columns = max(1, min(int(relevant.max()), nearest or len(labels)))
    unit = F.normalize(embeddings.double(), dim=1)
    gallery_unit, gallery_labels = unit[others].T, labels[others]
    ranks = []
    for rows in queries.split(block):
        similar = (unit[rows] @ gallery_unit).mul_(GRID).round_().float()
        itself = own[rows]
        similar[itself >= 0, itself[itself >= 0]] = -torch.inf
        ranks.append(block_ranks(similar, labels[rows, None] == gallery_labels, columns))
    return Ranks(torch.cat(ranks), relevant)


def checked(embeddings: Tensor, labels: Tensor) -> None:
    """InputError unless there is one finite embedding a label."""
    if embeddings.ndim != 2 or labels.shape != embeddings.shape[:1] or not len(labels):
        raise InputError(
            f"came embeddings {tuple(embeddings.shape)} and labels {tuple(labels.shape)}; "
            "allowed: (N, D) and (N,), N at least 1"
        )
    if not torch.isfinite(embeddings).all():
        wrong = int((~torch.isfinite(embeddings)).any(dim=1).sum())
        raise InputError(f"{wrong} of {len(labels)} embeddings hold NaN or infinity")


def block_ranks(similar: Tensor, same: Tensor, columns: int) -> Tensor:
    """(B, columns) ranks of the nearest same-class samples: a sample's place among its class, plus
    the number of other samples as near or nearer.

    similar: (B, G) float, -inf for what does not count, overwritten; same: (B, G) bool.
    """
    right = similar.masked_fill(~same, -torch.inf).topk(columns, dim=1).values
    wrong = similar.masked_fill_(same, -torch.inf)
    if columns == 1:
        nearer = (wrong >= right).sum(dim=1, keepdim=True)
    else:
        nearer = wrong.shape[1] - torch.searchsorted(wrong.sort(dim=1).values, right)
    places = torch.arange(1, columns + 1, device=similar.device)
    return (nearer + places).masked_fill(right == -torch.inf, 0)
