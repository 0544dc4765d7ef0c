"""Rank each query's positives exactly, in blocks, on any device.

The positives of a query are the other gallery samples of its class; the negatives are of other
classes. Samples are ranked by cosine, which orders unit vectors as Euclidean distance does. Rules:

- A sample is never its own neighbor.
- Ties are broken against the query: negatives rank before positives at equal cosine. A network that
  maps everything to one point scores 0, and the order of samples does not matter. Cosines are equal
  if they round to the same multiple of 2^-32. An embedding of length 0 has cosine 0 with all.
- A query without positives has no ranks and scores 0.

All cosines are first computed in low precision (`candidate_filter`). Those whose error bound leaves
the rank of a positive undecided are computed again in float64.
"""

from dataclasses import KW_ONLY, dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.linalg import vecdot

from heated.common.errors import InputError
from heated.common.geometry import l2_normalize
from heated.evaluation.candidate_filter import (
    CandidateFilter,
    Pairs,
    ProductBlock,
    map_pairs,
    round_vectors,
    rounding_bound,
)
from heated.runtime.device import fast_dtype

GRID = 2**32  # cosines are compared as integer multiples of 1 / GRID
PADDING = -2 * GRID  # below any cosine
STRIP = {"cpu": 128, "cuda": 1024}  # queries whose positives are computed in one product


@dataclass(frozen=True)
class Ranks:
    """Ranks of the positives of B queries, int64, starting at 1."""

    nearest: Tensor  # (B,), of the nearest positive; 0 if there is none up to max_k
    within_r: Tensor  # (B, W), of all positives up to rank R, ascending, padded with 0
    num_positives: Tensor  # (B,), R
    num_recomputed: int = 0  # cosines that were computed in float64


@dataclass(frozen=True)
class Queries:
    """B queries in the order of their classes, (B,) int64 each."""

    index: Tensor  # of the query's sample
    start: Tensor  # where its class starts in the sorted gallery
    stop: Tensor  # where its class ends
    position: Tensor  # of the query itself in the sorted gallery, or -1
    num_positives: Tensor

    def __getitem__(self, block: slice) -> "Queries":
        return Queries(*(getattr(self, field.name)[block] for field in fields(self)))


@dataclass(eq=False)
class NeighborSearch:
    """Rank the positives of queries in a gallery.

    Neither memory nor dtype affects results. Raises InputError if embeddings are not finite, if
    their number is not that of the labels, or if there is no query or no gallery sample.
    """

    embeddings: Tensor  # (N, D) floating point, of any length
    labels: Tensor  # (N,) int64
    _: KW_ONLY
    query: Tensor | None = None  # (N,) bool, by default all samples
    gallery: Tensor | None = None  # (N,) bool, by default all samples
    max_k: int  # up to this rank, the nearest positive is ranked
    rank_all_positives: bool = True  # up to rank R
    memory_mib: int = 128  # of what grows with queries x gallery, beyond 3 copies of embeddings
    dtype: torch.dtype | None = None  # of the low-precision products, by default a fast one

    def __post_init__(self) -> None:
        labels, shape = self.labels, self.embeddings.shape
        matches = len(shape) == 2 and labels.shape == shape[:1] and len(labels)
        if not matches or not self.embeddings.is_floating_point() or labels.dtype != torch.int64:
            raise InputError(
                f"embeddings, labels: got {tuple(shape)} of {self.embeddings.dtype} and "
                f"{tuple(labels.shape)} of {labels.dtype}, expected floating-point embeddings "
                "(N, D) and int64 labels (N,), N at least 1"
            )
        if invalid := int((~torch.isfinite(self.embeddings)).any(dim=1).sum()):
            raise InputError(
                f"embeddings: got NaN or infinity in {invalid} of {len(labels)}, expected finite "
                "ones"
            )
        order = labels.argsort(stable=True)
        index = order if self.query is None else order[self.query[order]]
        self.sorted_gallery = order if self.gallery is None else order[self.gallery[order]]
        size = len(self.sorted_gallery)
        if not len(index) or not size:
            raise InputError(
                f"query, gallery: got {len(index)} queries and {size} gallery samples, expected at "
                "least one of each. Check the masks."
            )
        position = index_positions(self.sorted_gallery, len(labels))[index]
        start = torch.searchsorted(labels[self.sorted_gallery], labels[index])
        stop = torch.searchsorted(labels[self.sorted_gallery], labels[index], right=True)
        num_positives = stop - start - (position >= 0).long()
        self.queries = Queries(index, start, stop, position, num_positives)
        self.unit = l2_normalize(self.embeddings)
        # Shuffled, so that the samples of a class are in different chunks of the products.
        shuffle = torch.randperm(size, generator=torch.Generator().manual_seed(0)).to(labels.device)
        self.shuffle, self.column = shuffle, index_positions(shuffle, size)
        most = max(1, int(num_positives.max()))
        self.filter = CandidateFilter(
            self.unit[self.sorted_gallery[shuffle]],
            self.dtype or fast_dtype(self.unit.device),
            num_queries=len(index),
            memory_mib=self.memory_mib,
            bytes_per_query=128 * most,
            # the largest power of 2 up to 64 that leaves at least 8 chunks per positive
            width=1 << max(0, min(6, (size // (8 * most)).bit_length() - 1)),
        )
        self.blocks = self.filter.blocks  # the queries that are ranked at once

    def ranks(self, block: slice) -> Ranks:
        """Rank the positives of a block of queries."""
        queries = self.queries[block]
        positives = self.positive_cosines(queries)
        excluded = torch.where(queries.position >= 0, self.column[queries.position], -1)
        rounded = round_vectors(self.unit[queries.index], self.filter.dtype)
        products = self.filter.multiply(*rounded, excluded=excluded)
        needed = self.ranks_needed(queries, products, positives)
        farthest = positives.gather(1, (needed - 1).clamp(min=0)[:, None])[:, 0].double() / GRID
        farthest = farthest.masked_fill(needed == 0, torch.inf)
        counts, num_recomputed = torch.zeros_like(F.pad(positives, (0, 1))), 0
        for candidates in products.candidates(farthest, self.filter.max_columns):
            added, recomputed = self.count_negatives(queries, products, positives, candidates)
            counts += added
            num_recomputed += recomputed
        places = torch.arange(positives.shape[1], device=positives.device)
        ranks = counts.cumsum(dim=1)[:, :-1] + places + 1
        ranks = ranks.masked_fill(places >= needed[:, None], 0)
        nearest = ranks[:, 0].masked_fill(ranks[:, 0] > self.max_k, 0)
        within_r = ranks.masked_fill(ranks > queries.num_positives[:, None], 0)
        return Ranks(nearest, within_r, queries.num_positives, num_recomputed)

    def positive_cosines(self, queries: Queries) -> Tensor:
        """Return (B, W) int64, cosines with the positives, descending, then PADDING."""
        device, size = self.unit.device, STRIP[self.unit.device.type]
        steps = torch.arange(max(1, int((queries.stop - queries.start).max())), device=device)
        parts = []
        for begin in range(0, len(queries.index), size):
            piece = queries[begin : begin + size]
            first = min(int(piece.start[0]), len(self.sorted_gallery) - 1)
            last = max(int(piece.stop[-1]), first + 1)
            strip = self.unit[piece.index] @ self.unit[self.sorted_gallery[first:last]].T
            places = piece.start[:, None] + steps
            cosines = to_grid(strip).gather(1, (places - first).clamp(max=last - first - 1))
            invalid = (places >= piece.stop[:, None]) | (places == piece.position[:, None])
            parts.append(cosines.masked_fill(invalid, PADDING))
        width = max(1, int(queries.num_positives.max()))
        return torch.cat(parts).sort(dim=1, descending=True).values[:, :width]

    def ranks_needed(self, queries: Queries, products: ProductBlock, positives: Tensor) -> Tensor:
        """Return (B,) int64, how many of each query's nearest positives must be ranked."""
        needed = torch.zeros_like(positives[:, 0])
        if self.rank_all_positives:
            # The R-th largest maximum of a chunk proves that R samples are at least as near.
            num_positives, chunks = queries.num_positives, products.maxima.shape[1]
            top = products.maxima.topk(min(chunks, max(1, int(num_positives.max()))), dim=1).values
            last = (num_positives - 1).clamp(min=0, max=top.shape[1] - 1)
            product = top.gather(1, last[:, None])[:, 0]
            radius = product.double() - rounding_bound(product) - products.bound
            radius[(product == -torch.inf) | (num_positives > chunks)] = -1.5
            needed = (positives >= (radius * GRID).floor().long()[:, None]).sum(dim=1)
        nearest = positives[:, 0].double() / GRID + products.bound
        certainly_nearer = (products.maxima > products.as_stored(nearest)[:, None]).sum(dim=1)
        within_k = (certainly_nearer < self.max_k) & (positives[:, 0] > PADDING)
        return torch.maximum(needed, within_k.long())

    def count_negatives(
        self, queries: Queries, products: ProductBlock, positives: Tensor, candidates: Pairs
    ) -> tuple[Tensor, int]:
        """Return counts of negatives (B, W + 1), and the number of cosines computed in float64.

        Entry (q, i) counts those at least as near as positive i and farther than positive i - 1.
        """
        row, column, product = candidates
        place = self.shuffle[column]
        negative = (place < queries.start[row]) | (place >= queries.stop[row])
        row, place, product = row[negative], place[negative], product[negative]
        error = rounding_bound(product) + products.bound[row]
        lowest = ((product - error) * GRID).floor().long()
        highest = ((product + error) * GRID).ceil().long()

        # A query whose nearest positive is certainly out of reach needs no exact counts.
        certain = torch.bincount(row[lowest > positives[row, 0]], minlength=len(positives))
        certain *= certain >= queries.num_positives.clamp(min=self.max_k)
        kept = certain[row] == 0
        row, place, lowest, highest = row[kept], place[kept], lowest[kept], highest[kept]

        nearer = count_nearer(positives, row, highest)
        doubt = torch.nonzero(nearer != count_nearer(positives, row, lowest))[:, 0]
        row_doubt, samples = row[doubt], self.sorted_gallery[place[doubt]]
        unique, inverse = torch.unique_consecutive(row_doubt, return_inverse=True)
        if 16 * len(doubt) > len(unique) * len(self.unit):
            cosines = (self.unit[queries.index[unique]] @ self.unit.T)[inverse, samples]
        else:
            cosines = map_pairs(vecdot, self.unit, self.unit, queries.index[row_doubt], samples)
        nearer[doubt] = count_nearer(positives, row_doubt, to_grid(cosines))
        shape = len(positives), positives.shape[1] + 1
        counts = torch.bincount(row * shape[1] + nearer, minlength=shape[0] * shape[1]).view(shape)
        counts[:, 0] += certain
        return counts, len(doubt)


def count_nearer(positives: Tensor, rows: Tensor, cosines: Tensor) -> Tensor:
    """Count the entries of the descending `positives[rows]` above each cosine, on the grid."""
    offset = 8 * GRID  # more than entries of a row differ: all rows are one ascending sequence
    starts = torch.arange(len(positives), device=positives.device)[:, None] * offset
    sequence = (starts - positives).flatten()
    return torch.searchsorted(sequence, rows * offset - cosines) - rows * positives.shape[1]


def to_grid(cosines: Tensor) -> Tensor:
    """Round cosines (float64) to integer multiples of 1 / GRID."""
    return (cosines * GRID).round_().long()


def index_positions(indices: Tensor, size: int) -> Tensor:
    """Return (size,) int64, the position of each of 0..size - 1 in the unique `indices`, or -1."""
    positions = torch.full((size,), -1, device=indices.device)
    positions[indices] = torch.arange(len(indices), device=indices.device)
    return positions
