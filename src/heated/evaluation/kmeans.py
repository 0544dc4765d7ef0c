"""Lloyd's k-means of unit vectors, exact in every assignment, on any device.

A sample's squared distance to a centre c is 1 - 2 (x.c - |c|^2 / 2): the nearest centre has the
largest x.c - |c|^2 / 2. All are screened in low precision (`low_precision_screen`), with |c|^2 / 2
in three more columns; the centres that the bound leaves in doubt are decided in float64.
"""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.linalg import vecdot

from heated.common.errors import InputError
from heated.evaluation.low_precision_screen import (
    Block,
    Rounded,
    Screen,
    half_step,
    pairs,
    portions,
    rounded,
)
from heated.runtime.device import fast_dtype
from heated.runtime.distributed import all_reduce_sum, local_shard

EXTRA = 8  # columns beside a vector's own: three for |c|^2 / 2, the others keep widths even


@dataclass(frozen=True)
class Clusters:
    """`labels` (N,) int64; `objective`, the mean squared distance to the cluster's centre;
    `iterations` made; `converged`, whether the last one moved no sample."""

    labels: Tensor
    objective: float
    iterations: int
    converged: bool


def lloyd(
    unit: Tensor,
    clusters: int,
    *,
    iterations: int,
    generator: Generator,
    memory: int = 128,
    dtype: torch.dtype | None = None,
) -> Clusters:
    """Cluster (N, D) float64 vectors of length 1; the first centres are distinct samples, drawn at
    random. A cluster that loses its last sample restarts at the sample farthest from its centre.

    memory: MiB for what grows with N x clusters. dtype: the screen's, by default what the hardware
    does fast. Results depend on neither. Raises InputError if there are more clusters than N.
    """
    if clusters > len(unit):
        raise InputError(f"came {clusters} clusters for {len(unit)} samples; allowed: at most N")
    drawn = torch.randperm(len(unit), generator=generator)[:clusters]
    centres = unit[drawn.to(unit.device)]
    assignment = Assignment(unit, centres, memory=memory, dtype=dtype or fast_dtype(unit.device))
    labels = assignment.nearest(centres)
    done, converged = 0, False
    while done < iterations and not converged:
        centres = updated(unit, labels, centres)
        before, labels = labels, assignment.nearest(centres)
        done, converged = done + 1, torch.equal(before, labels)
    objective = squared_distances(unit, centres, labels).mean().item()
    return Clusters(labels, objective, done, converged)


class Assignment:
    """Samples ready to be given to the nearest of centres, again and again."""

    def __init__(self, unit: Tensor, centres: Tensor, *, memory: int, dtype: torch.dtype) -> None:
        self.unit = unit
        low = rounded(unit, dtype)
        beside = torch.zeros(len(unit), EXTRA, dtype=low.values.dtype, device=unit.device)
        beside[:, :3] = 1
        self.low = Rounded(torch.cat([low.values, beside], dim=1), low.error)
        bytes_a_sample = len(centres) * low.values.element_size()
        half = memory * 2**20 // 2  # in bytes
        self.rows = min(len(unit), max(1, half // bytes_a_sample))
        self.portion = half // 64  # candidates, of about so many bytes each
        self.screen = Screen(self.extended(centres), rows=self.rows)

    def extended(self, centres: Tensor) -> Rounded:
        """Centres with -|c|^2 / 2 in three columns, each what the ones before could not hold."""
        beside = centres.new_zeros(len(centres), EXTRA)
        rest = -centres.square().sum(dim=1) / 2
        for column in range(3):
            beside[:, column] = rest.to(self.low.values.dtype)
            rest = rest - beside[:, column]
        return rounded(torch.cat([centres, beside], dim=1), self.low.values.dtype)

    def nearest(self, centres: Tensor) -> Tensor:
        """(N,) int64, each sample's nearest centre, of equally near ones the first; found by all
        processes together."""
        self.screen.hold(self.extended(centres))
        labels = torch.zeros(len(self.unit), dtype=torch.int64, device=self.unit.device)
        blocks = [slice(i, i + self.rows) for i in range(0, len(labels), self.rows)]
        for block in local_shard(blocks):
            screened = self.screen.multiply(self.low[block])
            labels[block] = self.decided(self.unit[block], centres, screened)
        return all_reduce_sum(labels)

    def decided(self, unit: Tensor, centres: Tensor, screened: Block) -> Tensor:
        """(b,) the nearest centres of a block of samples."""
        best = screened.maxima.amax(dim=1)
        least = best.double() - half_step(best) - screened.bound
        labels = torch.full_like(best, len(centres), dtype=torch.int64)
        costs = screened.reaching(least).sum(dim=1) * self.screen.width
        for rows in portions(costs, self.portion):
            row, column, _ = screened.candidates(rows, least)
            doubtful = torch.nonzero(torch.bincount(row)[row] > 1)[:, 0]
            distance = unit.new_zeros(len(row))
            distance[doubtful] = half_distances(unit, centres, row[doubtful], column[doubtful])
            least_distance = unit.new_full((len(unit),), torch.inf)
            least_distance.scatter_reduce_(0, row, distance, "amin")
            nearest = torch.nonzero(distance == least_distance[row])[:, 0]
            labels.scatter_reduce_(0, row[nearest], column[nearest], "amin")
        return labels


def half_distances(unit: Tensor, centres: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """(P,) float64, (|x - c|^2 - |x|^2) / 2 of P pairs."""
    near = ((unit[r], centres[c]) for r, c in pairs(row, column))
    return torch.cat([vecdot(c, c) / 2 - vecdot(x, c) for x, c in near])


def updated(unit: Tensor, labels: Tensor, centres: Tensor) -> Tensor:
    """(k, D) the mean of each cluster's samples; summed in the order of the samples, so that the
    same labels give the same bits on any device and number of processes."""
    counts = torch.bincount(labels, minlength=len(centres))
    empty = torch.nonzero(counts == 0)[:, 0]
    if len(empty):
        distances = squared_distances(unit, centres, labels)
        farthest = distances.argsort(descending=True, stable=True)[: len(empty)]
        labels = labels.index_copy(0, farthest, empty[: len(farthest)])
        counts = torch.bincount(labels, minlength=len(centres))
    sums = torch.segment_reduce(unit[labels.argsort(stable=True)], "sum", lengths=counts)
    return torch.where(counts[:, None] > 0, sums / counts[:, None].clamp(min=1), centres)


def squared_distances(unit: Tensor, centres: Tensor, labels: Tensor) -> Tensor:
    """(N,) |x - c|^2 of each sample and its cluster's centre."""
    samples = torch.arange(len(unit), device=unit.device)
    near = ((unit[r], centres[c]) for r, c in pairs(samples, labels))
    return torch.cat([(x - c).square().sum(dim=1) for x, c in near])
