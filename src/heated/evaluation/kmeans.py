"""Lloyd's k-means of unit vectors, with exact assignments, on any device.

The center c nearest to a sample x has the largest x.c - |c|^2 / 2. These are first computed in low
precision (`candidate_filter`), with |c|^2 / 2 in three additional columns. The centers that the
error bound leaves undecided are compared in float64.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.linalg import vecdot

from heated.common.errors import InputError
from heated.evaluation.candidate_filter import (
    CandidateFilter,
    ProductBlock,
    map_pairs,
    round_vectors,
    rounding_bound,
)
from heated.runtime.device import fast_dtype
from heated.runtime.distributed import all_reduce_sum, local_shard

EXTRA_COLUMNS = 8  # three for |c|^2 / 2; the rest keeps the width even


@dataclass(frozen=True)
class Clusters:
    """A clustering of N samples."""

    labels: Tensor  # (N,) int64
    objective: float  # the mean squared distance to the cluster's center
    iterations: int
    converged: bool  # whether the last iteration moved no sample


def lloyd(
    unit: Tensor,
    num_clusters: int,
    *,
    iterations: int,
    generator: Generator,
    memory_mib: int = 128,
    dtype: torch.dtype | None = None,
) -> Clusters:
    """Cluster (N, D) float64 of length 1, starting from distinct random samples as centers.

    A cluster that loses its last sample restarts at the sample farthest from its center. Neither
    `memory_mib`, for what grows with N x clusters, nor the `dtype` of the low-precision products
    affects results. Raises InputError if there are more clusters than samples.
    """
    if num_clusters > len(unit):
        raise InputError(
            f"k-means: got {num_clusters} clusters, expected at most {len(unit)}, one per sample"
        )
    first = torch.randperm(len(unit), generator=generator)[:num_clusters]
    centers = unit[first.to(unit.device)]
    dtype = dtype or fast_dtype(unit.device)
    gallery = with_half_norms(centers, dtype)
    products = CandidateFilter(gallery, dtype, num_queries=len(unit), memory_mib=memory_mib)
    rounded = round_samples(unit, dtype)
    labels = assign(unit, rounded, centers, products)
    iteration, converged = 0, False
    while iteration < iterations and not converged:
        centers = update_centers(unit, labels, centers)
        previous, labels = labels, assign(unit, rounded, centers, products)
        iteration, converged = iteration + 1, torch.equal(previous, labels)
    objective = squared_distances(unit, centers, labels).mean().item()
    return Clusters(labels, objective, iteration, converged)


def round_samples(unit: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Round samples, with columns of ones for those that `with_half_norms` appends to centers."""
    values, error = round_vectors(unit, dtype)
    return F.pad(F.pad(values, (0, 3), value=1), (0, EXTRA_COLUMNS - 3)), error


def with_half_norms(centers: Tensor, dtype: torch.dtype) -> Tensor:
    """Append -|c|^2 / 2 in three columns, each with the rounding error of the previous ones."""
    columns, remainder = [centers], -centers.square().sum(dim=1, keepdim=True) / 2
    for _ in range(3):
        columns.append(remainder.to(dtype).double())
        remainder = remainder - columns[-1]
    return F.pad(torch.cat(columns, dim=1), (0, EXTRA_COLUMNS - 3))


def assign(
    unit: Tensor, rounded: tuple[Tensor, Tensor], centers: Tensor, products: CandidateFilter
) -> Tensor:
    """Return (N,) int64, each sample's nearest center, the first one in a tie.

    `rounded` is of `round_samples`. The processes of `torchrun` share the work.
    """
    low, error = rounded
    products.set_gallery(with_half_norms(centers, products.dtype))
    labels = torch.zeros(len(unit), dtype=torch.int64, device=unit.device)
    for block in local_shard(products.blocks):
        screened = products.multiply(low[block], error[block])
        labels[block] = nearest_centers(unit[block], centers, screened, products.max_columns)
    return all_reduce_sum(labels)


def nearest_centers(unit: Tensor, centers: Tensor, block: ProductBlock, max_columns: int) -> Tensor:
    """Return (B,) int64, the nearest centers of a block of samples."""
    largest = block.maxima.amax(dim=1)
    least = largest.double() - rounding_bound(largest) - block.bound
    labels = torch.full_like(largest, len(centers), dtype=torch.int64)
    for row, column, _ in block.candidates(least, max_columns):
        doubt = torch.nonzero(torch.bincount(row)[row] > 1)[:, 0]
        distance = unit.new_zeros(len(row))  # (|x - c|^2 - |x|^2) / 2
        distance[doubt] = map_pairs(
            lambda x, c: vecdot(c, c) / 2 - vecdot(x, c), unit, centers, row[doubt], column[doubt]
        )
        minimum = unit.new_full((len(unit),), torch.inf)
        minimum.scatter_reduce_(0, row, distance, "amin")
        nearest = torch.nonzero(distance == minimum[row])[:, 0]
        labels.scatter_reduce_(0, row[nearest], column[nearest], "amin")
    return labels


def update_centers(unit: Tensor, labels: Tensor, centers: Tensor) -> Tensor:
    """Return (K, D), the mean of each cluster's samples, with the same bits on every device."""
    counts = torch.bincount(labels, minlength=len(centers))
    empty = torch.nonzero(counts == 0)[:, 0]
    if len(empty):
        distances = squared_distances(unit, centers, labels)
        farthest = distances.argsort(descending=True, stable=True)[: len(empty)]
        labels = labels.index_copy(0, farthest, empty[: len(farthest)])
        counts = torch.bincount(labels, minlength=len(centers))
    sums = torch.segment_reduce(unit[labels.argsort(stable=True)], "sum", lengths=counts)
    return torch.where(counts[:, None] > 0, sums / counts[:, None].clamp(min=1), centers)


def squared_distances(unit: Tensor, centers: Tensor, labels: Tensor) -> Tensor:
    """Return (N,) |x - c|^2 of each sample and the center of its cluster."""
    samples = torch.arange(len(unit), device=unit.device)
    return map_pairs(lambda x, c: (x - c).square().sum(dim=1), unit, centers, samples, labels)
