"""Count the negatives that are at least as near as each positive, from tiles of products.

A tile has the products of some queries with some gallery samples. Each query passes through up to
three stages as tiles are added:

1. Its positives that can still be among the R nearest are ranked. The few products that reach the
   farthest of them are extracted.
2. If even the nearest positive is not among the R nearest, only its own rank up to max_k is left:
   the products that reach it are counted, not extracted.
3. If that rank is above max_k, nothing is left.

Products within the error bound of a positive's cosine are in doubt. They are computed in float64.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from heated.evaluation.candidate_filter import rounding_bound

GRID = 2**32  # cosines are compared as integer multiples of 1 / GRID
PADDING = -2 * GRID  # below any cosine

# maps places of queries and of gallery samples (P,) in the tile to their cosines on the grid
ExactCosines = Callable[[Tensor, Tensor], Tensor]


class Tile(NamedTuple):
    """Products of queries with gallery samples, -inf where the sample is no negative."""

    products: Tensor  # (rows, columns), contiguous
    queries: int  # the dimension of the queries
    width: int  # products per chunk; divides the other dimension

    def maxima(self) -> Tensor:
        """Return (Q, M): chunk m has the gallery samples m, m + M, m + 2 M..."""
        rows, columns = self.products.shape
        if self.queries == 0:
            return maximum_by_halves(self.products.view(rows, self.width, -1), 1)
        return maximum_by_halves(self.products.view(self.width, -1, columns), 0).T.contiguous()

    def chunks(self, query: Tensor, chunk: Tensor, num_chunks: int) -> tuple[Tensor, Tensor]:
        """Return the gallery samples (P, width) of chunks, and their products."""
        samples = chunk[:, None] + num_chunks * torch.arange(self.width, device=chunk.device)
        row, column = (query[:, None], samples) if self.queries == 0 else (samples, query[:, None])
        return samples, self.products.view(-1).take(row * self.products.shape[1] + column)

    def select(self, queries: Tensor) -> Tensor:
        """Return the products of queries, in the tile's layout."""
        return self.products.index_select(self.queries, queries)

    def count_where(
        self, selected: Tensor, compare: Callable[..., Tensor], threshold: Tensor
    ) -> Tensor:
        """Count the products of `selected` that compare with their query's threshold."""
        hits = as_float(compare, selected, threshold.unsqueeze(1 - self.queries))
        return hits.sum(dim=1 - self.queries).long()


@dataclass
class NegativeCounts:
    """Counts of negatives for B queries. A slice shares the memory."""

    positives: Tensor  # (B, W) int64, cosines on the grid, descending, then PADDING
    num_positives: Tensor  # (B,) int64, R
    bound: Tensor  # (B,) float64, of the error of products
    low: Tensor  # (B, W): products of negatives as near as a positive are at least this
    high: Tensor  # (B, W): products above this are certainly of such negatives
    needed: Tensor  # (B,) int64, how many of the nearest positives can still be among the R nearest
    counts: Tensor  # (B, W + 1) int64, of those as near as positive i and farther than i - 1
    offset: float  # of cosines above products
    max_k: int

    @classmethod
    def start(
        cls,
        positives: Tensor,
        num_positives: Tensor,
        bound: Tensor,
        *,
        offset: float,
        max_k: int,
        rank_all_positives: bool,
        dtype: torch.dtype,
    ) -> "NegativeCounts":
        """Begin with no negatives."""
        least = (positives.double() - 0.5) / GRID - offset
        # to float32 first, as products are
        low, high = ((least + error[:, None]).float().to(dtype) for error in (-bound, bound))
        needed = num_positives * rank_all_positives
        counts = torch.zeros_like(F.pad(positives, (0, 1)))
        return cls(positives, num_positives, bound, low, high, needed, counts, offset, max_k)

    def __getitem__(self, block: slice) -> "NegativeCounts":
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        parts: dict[str, Any] = {
            name: value[block] for name, value in values.items() if torch.is_tensor(value)
        }
        return replace(self, **parts)

    def add(self, tile: Tile, exact: ExactCosines) -> int:
        """Count the negatives in a tile; return the number of cosines computed in float64."""
        maxima, recomputed = tile.maxima()[: len(self.needed)], 0
        was_needed, before = self.needed > 0, self.counts[:, 0].clone()
        hits = as_float(torch.ge, maxima, self.least_needed())
        many = (hits.sum(dim=1) > self.num_positives).nonzero()[:, 0]
        if len(many):
            self.drop_certain(many, maxima[many])
            hits.mul_(as_float(torch.ge, maxima, self.least_needed()))
        while most := int(hits.sum(dim=1).max()):
            chunks, limit = hits, 2 * self.num_positives[:, None] + 4
            if most > limit.min():
                # A few at a time: in a tie, the first ones may show that the rest is not needed.
                chunks = hits * (hits.cumsum(dim=1) <= limit)
            recomputed += self.rank(tile, chunks, exact)
            hits = (hits - chunks).mul_(maxima >= self.least_needed())
        # the nearest positive's count starts again where the ranking has ended within this tile
        self.counts[:, 0] = torch.where(was_needed & (self.needed == 0), before, self.counts[:, 0])
        return recomputed + self.count(tile, maxima.amax(dim=1), exact)

    def least_needed(self) -> Tensor:
        """Return (B, 1), the product that the farthest needed positive asks for, or inf."""
        low = self.low.gather(1, (self.needed - 1).clamp(min=0)[:, None])
        return low.masked_fill(self.needed[:, None] == 0, torch.inf)

    def drop_certain(self, rows: Tensor, maxima: Tensor) -> None:
        """Drop positives of rows that the maxima of a tile's chunks keep from the R nearest."""
        places = torch.arange(self.positives.shape[1], device=rows.device)
        # one more negative than this number keeps positive i from the R nearest
        missing = self.num_positives[rows, None] - places - 1
        missing = missing - self.counts[rows].cumsum(dim=1)[:, :-1]
        largest = maxima.sort(dim=1, descending=True).values
        there = largest.gather(1, missing.clamp(0, maxima.shape[1] - 1))
        dropped = (there > self.high[rows]) & (missing < maxima.shape[1])
        self.needed[rows] = (~dropped & (places < self.needed[rows, None])).sum(dim=1)

    def rank(self, tile: Tile, chunks: Tensor, exact: ExactCosines) -> int:
        """Count the negatives in chunks (B, M), 1 or 0, by the positives that they precede."""
        query, chunk = chunks.nonzero(as_tuple=True)
        samples, values = tile.chunks(query, chunk, chunks.shape[1])
        piece, place = (values >= self.least_needed()[query]).nonzero(as_tuple=True)
        row, sample, product = query[piece], samples[piece, place], values[piece, place]
        cosine, error = product.double() + self.offset, rounding_bound(product) + self.bound[row]
        nearer, at_most = (
            self.count_nearer(row, to_grid(each)) for each in (cosine + error, cosine - error)
        )
        doubt = (nearer != at_most).nonzero()[:, 0]
        if len(doubt):
            nearer[doubt] = self.count_nearer(row[doubt], exact(row[doubt], sample[doubt]))
        size = self.counts.shape
        added = torch.bincount(row * size[1] + nearer, minlength=size[0] * size[1])
        self.counts += added.view(size)
        places = torch.arange(size[1] - 1, device=row.device)
        within_r = self.counts.cumsum(dim=1)[:, :-1] + places < self.num_positives[:, None]
        self.needed.copy_(torch.minimum(self.needed, within_r.sum(dim=1)))
        return len(doubt)

    def count_nearer(self, rows: Tensor, cosines: Tensor) -> Tensor:
        """Count the needed positives of `rows` above each cosine, on the grid."""
        offset = 8 * GRID  # more than entries of a row differ: all rows are one ascending sequence
        starts = torch.arange(len(self.positives), device=rows.device)[:, None] * offset
        sequence = (starts - self.positives).flatten()
        nearer = torch.searchsorted(sequence, rows * offset - cosines)
        return torch.minimum(nearer - rows * self.positives.shape[1], self.needed[rows])

    def count(self, tile: Tile, maxima: Tensor, exact: ExactCosines) -> int:
        """Count the negatives as near as the nearest positive, where only its rank is left."""
        open_ = (self.needed == 0) & (self.counts[:, 0] < self.max_k) & (self.num_positives > 0)
        row = (open_ & (maxima >= self.low[:, 0])).nonzero()[:, 0]
        if not len(row):
            return 0
        selected, low, high = tile.select(row), self.low[row, 0], self.high[row, 0]
        certain = tile.count_where(selected, torch.gt, high)
        self.counts[row, 0] += certain
        doubtful = tile.count_where(selected, torch.ge, low) > certain
        doubtful = (doubtful & (self.counts[row, 0] < self.max_k)).nonzero()[:, 0]
        if not len(doubtful):
            return 0
        products = selected.index_select(tile.queries, doubtful)
        products = products if tile.queries == 0 else products.T
        low, high = low[doubtful, None], high[doubtful, None]
        piece, sample = ((products >= low) & (products <= high)).nonzero(as_tuple=True)
        piece = row[doubtful[piece]]
        nearer = piece[exact(piece, sample) >= self.positives[piece, 0]]
        self.counts[:, 0] += torch.bincount(nearer, minlength=len(self.counts))
        return len(piece)


def maximum_by_halves(values: Tensor, dim: int) -> Tensor:
    """Return the maxima over a dimension whose size is a power of 2; of size 1, a view.

    On a CPU the halves are compared until one value is left: `amax` over an inner dimension takes
    up to six times as long.
    """
    if values.device.type != "cpu":
        return values.amax(dim=dim)
    while (size := values.shape[dim]) > 1:
        values = torch.maximum(*values.split(size // 2, dim))
    return values.squeeze(dim)


def as_float(compare: Callable[..., Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Compare elements: 1 or 0 in float32, which is faster than Booleans to write and to sum."""
    return compare(x, y, out=torch.empty_like(x, dtype=torch.float32))


def to_grid(cosines: Tensor) -> Tensor:
    """Round cosines (float64) to integer multiples of 1 / GRID."""
    return (cosines * GRID).round_().long()
