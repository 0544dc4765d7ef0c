"""Filter pairs of vectors by low-precision products, so that few must be computed in float64.

**The bound.** Let x, y have length at most 1, x' and y' be their roundings, dx = |x - x'| and
dy = |y - y'|. By Cauchy and Schwarz
    |x.y - x'.y'| <= |x - x'||y| + |x'||y - y'| <= dx + (1 + dx) dy,
where dx and dy are measured. The product of two bfloat16 numbers is exact in float32. A float32 sum
of D terms, in any order, errs by at most D u times the sum of their sizes. Here u is 2^-24 if sums
are rounded, and 2^-23 if they are truncated, as on tensor cores. D 2^-22 therefore covers terms
whose sizes add up to 2, and also the rounding of products of float32 numbers. The sum is stored
rounded to nearest, which keeps order: a sum of at least t is stored as at least t rounded.
"""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from heated.common.io import MIB

MAX_ROWS = 1024  # of a block on a CPU, so that threads share the work evenly
ALIGNMENT = 64  # the number of columns is padded to a multiple of this
Pairs = tuple[Tensor, Tensor, Tensor]  # row, column and stored product, (P,) each


@dataclass(frozen=True)
class ProductBlock:
    """Products of a block of queries with the gallery."""

    products: Tensor  # (B, G'), -inf for excluded pairs and padding
    maxima: Tensor  # (B, M), the maximum of each chunk of G' / M neighboring columns
    bound: Tensor  # (B,) float64, the maximum error of a sum before it is stored

    def as_stored(self, sums: Tensor) -> Tensor:
        """Round sums (float64) as products are rounded when they are stored."""
        return sums.float().to(self.products.dtype)

    def candidates(self, threshold: Tensor, max_columns: int) -> Iterator[Pairs]:
        """Yield the pairs whose true product may reach a threshold.

        threshold: (B,) float64; inf excludes a row. max_columns: Columns read per iteration.
        """
        chunks, width = self.maxima.shape[1], self.products.shape[1] // self.maxima.shape[1]
        least = self.as_stored(threshold - self.bound)[:, None]
        for rows in split_by_cost((self.maxima >= least).sum(dim=1) * width, max_columns):
            row, chunk = torch.nonzero(self.maxima[rows] >= least[rows], as_tuple=True)
            row = rows[row]
            values = self.products.view(-1, width).index_select(0, row * chunks + chunk)
            piece, offset = torch.nonzero(values >= least[row], as_tuple=True)
            yield row[piece], chunk[piece] * width + offset, values[piece, offset]


class CandidateFilter:
    """Multiply blocks of queries with a gallery (G, D) float64, in a buffer per thread.

    `width` is the number of columns per chunk: a power of 2 up to 64.
    """

    def __init__(
        self,
        gallery: Tensor,
        dtype: torch.dtype,
        *,
        num_queries: int,
        memory_mib: int,
        width: int = ALIGNMENT,
    ) -> None:
        self.dtype, self.size = dtype, len(gallery)
        threads = torch.get_num_threads() if gallery.device.type == "cpu" else 1
        half = memory_mib * MIB // 2 // threads
        rows = min(num_queries, max(1, half // (self.size * dtype.itemsize)))
        if gallery.device.type == "cpu":
            rows = min(rows, MAX_ROWS)
        self.blocks = [slice(start, start + rows) for start in range(0, num_queries, rows)]
        self.max_columns = half // 128  # approximate bytes per candidate
        self.columns = self.size + -self.size % ALIGNMENT
        self.rows, self.width, self.buffers = rows, width, threading.local()
        self.set_gallery(gallery)

    def set_gallery(self, gallery: Tensor) -> None:
        """Replace the gallery by another one of the same size."""
        values, error = round_vectors(gallery, self.dtype)
        self.gallery = F.pad(values, (0, 0, 0, self.columns - self.size))
        self.error = error.max()

    def multiply(
        self, queries: Tensor, error: Tensor, *, excluded: Tensor | None = None
    ) -> ProductBlock:
        """Multiply queries, as `round_vectors` returns them; valid until the thread's next call.

        excluded: (B,) int64, one column per query to leave out, or -1.
        """
        if not hasattr(self.buffers, "products"):
            self.buffers.products = self.gallery.new_empty(self.rows, self.columns)
        products = self.buffers.products[: len(queries)]
        torch.mm(queries, self.gallery.T, out=products)
        products[:, self.size :] = -torch.inf
        if excluded is not None:
            rows = torch.nonzero(excluded >= 0)[:, 0]
            products[rows, excluded[rows]] = -torch.inf
        maxima = products.view(len(queries), -1, self.width).amax(dim=2)
        summation = queries.shape[1] * 2.0**-22
        return ProductBlock(products, maxima, error + (1 + error) * self.error + summation)


def round_vectors(vectors: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Round vectors (N, D) float64 and return the lengths (N,) of the rounding errors too."""
    values = vectors.to(dtype)
    pieces = zip(vectors.split(4096), values.split(4096), strict=True)
    return values, torch.cat([(v - low.double()).norm(dim=1) for v, low in pieces])


def rounding_bound(products: Tensor) -> Tensor:
    """Bound how much storing changed each product, in float64."""
    return products.double().abs() * (torch.finfo(products.dtype).eps / 2)


def split_by_cost(costs: Tensor, max_cost: int) -> Iterator[Tensor]:
    """Yield ascending indices of costs above 0, in groups of at most `max_cost` or one index."""
    indices = torch.nonzero(costs)[:, 0]
    groups = (costs[indices].cumsum(0) - 1) // max_cost
    _, counts = torch.unique_consecutive(groups, return_counts=True)
    yield from indices.split(counts.tolist())


def map_pairs(
    function: Callable[..., Tensor], x: Tensor, y: Tensor, rows: Tensor, columns: Tensor
) -> Tensor:
    """Compute `function(x[rows], y[columns])` in pieces whose vectors fit in a CPU's cache."""
    size = 1024 if rows.device.type == "cpu" else 65536
    pieces = zip(rows.split(size), columns.split(size), strict=True)
    return torch.cat([function(x[r], y[c]) for r, c in pieces])
