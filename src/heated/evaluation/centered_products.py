"""Approximate cosines by low-precision products of centered vectors, with an error bound.

Let m be near the mean of unit vectors x = m + a and y = m + b. Their cosine is
    x.y = |m|^2 + m.a + m.b + a.b.
The products here are m.a + m.b + a.b, without the constant. If all vectors are near each other, all
terms are small, and so are the errors of their low-precision sums: collapsed embeddings need no
more float64 than others do. m.a and m.b are columns of the matrices, next to a and b.

**The bound.** Let a', b' be the roundings, da = |a - a'| and db = |b - b'|. By Cauchy and Schwarz
    |a.b - a'.b'| <= |a - a'||b| + |a'||b - b'| <= da |b| + (|a| + da) db,
where da and db are measured. The product of two bfloat16 numbers is exact in float32. A float32 sum
of D terms, in any order, errs by at most D u times the sum of their sizes. Here u is 2^-24 if sums
are rounded, and 2^-23 if they are truncated, as on tensor cores. D 2^-23 times that sum therefore
also covers the rounding of products of float32 numbers. The sum is stored rounded to nearest, which
keeps order: a sum of at least t is stored as at least t rounded.
"""

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from heated.evaluation.threads import map_in_threads

PIECE = 256  # vectors that are rounded at once, so that they stay in a CPU's cache
PARTS = 3  # numbers whose sum is m.a, each the rounding error of the previous ones
EXTRA_COLUMNS = 8  # the parts of m.a and m.b; the rest keeps the width even
FLOAT64_ERROR = 2.0**-40  # more than errors in float64 add up to, less than cosines' grid


@dataclass(frozen=True)
class CenteredVectors:
    """N unit vectors less a center, in low precision."""

    left: Tensor  # (N, D + 8): a, parts of m.a, ones
    right: Tensor  # (N, D + 8): a, ones, parts of m.a
    length: Tensor  # (N,) float64, |a'|, at most
    error: Tensor  # (N,) float64, |a - a'|
    shift: Tensor  # (N,) float64, the sum of the parts' sizes
    rest: Tensor  # (N,) float64, the error of the parts' sum

    def __getitem__(self, block: slice) -> "CenteredVectors":
        return CenteredVectors(*(getattr(self, field.name)[block] for field in fields(self)))


def center_vectors(
    unit: Tensor, index: Tensor, center: Tensor, dtype: torch.dtype
) -> CenteredVectors:
    """Center the vectors `unit[index]` (N, D) float64 at `center` (D,) and round them."""
    size, dim = len(index), unit.shape[1]
    left = torch.zeros(size, dim + EXTRA_COLUMNS, dtype=dtype, device=unit.device)
    right = torch.zeros_like(left)
    length, error, shift, rest = unit.new_zeros(4, size).unbind()
    first, second = slice(dim, dim + PARTS), slice(dim + PARTS, dim + 2 * PARTS)
    left[:, second] = right[:, first] = 1

    def center_piece(start: int) -> None:
        piece = slice(start, start + PIECE)
        vectors = unit[index[piece]].sub_(center)
        remainder = vectors @ center
        right[piece, :dim] = left[piece, :dim] = vectors
        error[piece] = vectors.sub_(left[piece, :dim]).norm(dim=1)
        length[piece] = torch.linalg.vector_norm(left[piece, :dim], dim=1, dtype=torch.float64)
        for column in range(PARTS):
            part = remainder.to(dtype)
            left[piece, first.start + column] = right[piece, second.start + column] = part
            shift[piece] += part.abs()
            remainder = remainder - part
        rest[piece] = remainder.abs()

    map_in_threads(center_piece, range(0, size, PIECE), unit.device)
    return CenteredVectors(left, right, length, error, shift, rest)


def product_bounds(queries: CenteredVectors, gallery: CenteredVectors) -> Tensor:
    """Bound the error of each query's products before they are stored, (N,) float64."""
    length, error, shift, rest = (
        getattr(gallery, name).max() for name in ("length", "error", "shift", "rest")
    )
    rounding = queries.error * (length + error) + queries.length * error + queries.rest + rest
    sizes = queries.length * length + queries.shift + shift
    return rounding + sizes * queries.left.shape[1] * 2.0**-23 + FLOAT64_ERROR


def multiply(left: Tensor, right: Tensor, multiple: int, buffer: Tensor) -> Tensor:
    """Return the products of Q and G vectors in a buffer, padded to a multiple of each."""
    left, right = (
        F.pad(each, (0, 0, 0, -len(each) % multiple)) if len(each) % multiple else each
        for each in (left, right)
    )
    products = buffer[: len(left) * len(right)].view(len(left), len(right))
    return torch.mm(left, right.T, out=products)
