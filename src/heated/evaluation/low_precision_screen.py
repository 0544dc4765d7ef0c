"""Products of vectors in bfloat16 with a proven bound on their error: a screen that leaves few
pairs to be decided in float64, so that an exact answer costs little more than a low product.

**The bound.** Let x, y have length at most 1, x' and y' be their roundings, dx = |x - x'| and
dy = |y - y'|. By Cauchy and Schwarz
    |x.y - x'.y'| <= |x - x'||y| + |x'||y - y'| <= dx + (1 + dx) dy,
where dx and dy are measured, not estimated. The product of two bfloat16 numbers is exact in
float32, and a sum of D of them in float32, in any order, errs by at most D u times the sum of
their sizes: u = 2^-24 where sums are rounded, 2^-23 where they are cut off, as tensor cores do.
D 2^-22 therefore covers terms whose sizes add up to 2, and also products that are rounded to
float32, as those of a float32 screen are. What is stored is that sum rounded to nearest, which
keeps order: whatever is at least t is stored as at least t rounded.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

ALIGNED = 64  # columns a gallery is padded to


@dataclass(frozen=True)
class Rounded:
    """`values` (N, D) of a low dtype; `error` (N,) float64, how far each is from its vector."""

    values: Tensor
    error: Tensor

    def __getitem__(self, rows: slice | Tensor) -> "Rounded":
        return Rounded(self.values[rows], self.error[rows])


def rounded(vectors: Tensor, dtype: torch.dtype) -> Rounded:
    """(N, D) float64 vectors in a low dtype, with the length of what rounding took or gave."""
    values = vectors.to(dtype)
    pieces = zip(vectors.split(4096), values.split(4096), strict=True)
    return Rounded(values, torch.cat([(v - low.double()).norm(dim=1) for v, low in pieces]))


def half_step(values: Tensor) -> Tensor:
    """At most so far from a stored product was the sum before it was stored, float64."""
    return values.double().abs() * (torch.finfo(values.dtype).eps / 2)


class Screen:
    """A gallery of G vectors, to be multiplied by blocks of at most `rows` queries into buffers
    that are allocated once.

    Of every `width` neighbouring columns (a power of 2, at most 64) the largest is found while the
    block is at hand: only where that one reaches a query's threshold is the rest looked at.
    """

    def __init__(self, gallery: Rounded, *, rows: int, width: int = ALIGNED) -> None:
        self.size, self.width = len(gallery.values), width
        self.padding = -self.size % ALIGNED
        columns = self.size + self.padding
        self.products = gallery.values.new_empty(rows, columns)
        self.maxima = gallery.values.new_empty(rows, columns // width)
        self.hold(gallery)

    def hold(self, gallery: Rounded) -> None:
        """Take another gallery of the same size into the same buffers."""
        self.gallery = F.pad(gallery.values, (0, 0, 0, self.padding))
        self.error = gallery.error.max()

    def multiply(self, queries: Rounded, *, hidden: Tensor | None = None) -> "Block":
        """The products of b queries with the gallery, valid until the next call. hidden: (b,)
        int64, a column for each query to leave out, or -1."""
        count = len(queries.values)
        products, maxima = self.products[:count], self.maxima[:count]
        with exact_sums():
            torch.mm(queries.values, self.gallery.T, out=products)
        products[:, self.size :] = -torch.inf
        if hidden is not None:
            rows = torch.nonzero(hidden >= 0)[:, 0]
            products[rows, hidden[rows]] = -torch.inf
        torch.amax(products.view(count, -1, self.width), dim=2, out=maxima)
        summation = self.gallery.shape[1] * 2.0**-22
        return Block(products, maxima, queries.error + (1 + queries.error) * self.error + summation)


@dataclass(frozen=True)
class Block:
    """`products` (b, G') and the `maxima` (b, m) of their chunks, -inf for what does not count;
    `bound` (b,) float64, how far a sum may be from its true product."""

    products: Tensor
    maxima: Tensor
    bound: Tensor

    def reaching(self, least: Tensor) -> Tensor:
        """(b, m) bool, the chunks that may hold a true product of `least` or more, (b,) float64."""
        return self.maxima >= self.stored(least - self.bound)[:, None]

    def stored(self, sums: Tensor) -> Tensor:
        """What sums (float64) would be stored as."""
        return sums.float().to(self.products.dtype)

    def candidates(self, rows: Tensor, least: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Row, column and stored product of all that may truly reach `least`, (b,) float64, of the
        given rows, (r,) int64, in rising order."""
        chunks, width = self.maxima.shape[1], self.products.shape[1] // self.maxima.shape[1]
        threshold = self.stored(least - self.bound)[rows, None]
        row, chunk = torch.nonzero(self.maxima[rows] >= threshold, as_tuple=True)
        near = self.products.view(-1, width).index_select(0, rows[row] * chunks + chunk)
        piece, offset = torch.nonzero(near >= threshold[row], as_tuple=True)
        return rows[row[piece]], chunk[piece] * width + offset, near[piece, offset]


def portions(costs: Tensor, most: int) -> Iterator[Tensor]:
    """The indices of `costs` in rising order, those of cost 0 left out, in pieces that cost `most`
    or are alone."""
    indices = torch.nonzero(costs)[:, 0]
    numbers = (costs[indices].cumsum(0) - 1) // most
    _, counts = torch.unique_consecutive(numbers, return_counts=True)
    yield from indices.split(counts.tolist())


def pairs(one: Tensor, other: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Two rows of indices in equal pieces: so many that a CPU's cache holds the vectors."""
    size = 1024 if one.device.type == "cpu" else 65536
    yield from zip(one.split(size), other.split(size), strict=True)


@contextmanager
def exact_sums() -> Iterator[None]:
    """On a GPU: sums of bfloat16 products in float32 throughout, also where they are split."""
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_bf16_reduced_precision_reduction
    matmul.allow_bf16_reduced_precision_reduction = False
    try:
        yield
    finally:
        matmul.allow_bf16_reduced_precision_reduction = before
