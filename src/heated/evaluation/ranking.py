"""Exact ranks of each query's same-class samples among all others, in blocks, on any device.

Nearness is cosine similarity, which orders unit vectors as Euclidean distance does. Rules:
- A sample is never its own neighbour, also where it is both query and gallery.
- Ties count against the query: of samples equally near, those of other classes come first. So a
  network that maps everything to one point scores nothing, and no score depends on the order of the
  samples. A tie is an equal cosine, computed in float64 and rounded to a multiple of 2^-32. An
  embedding of length 0 has cosine 0 with everything.
- A query without another sample of its class in the gallery has no ranks; it scores 0.

All cosines are screened in low precision (`low_precision_screen`). Where the bound leaves in doubt
which same-class samples one is nearer than, it is computed in float64.
"""

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.linalg import vecdot

from heated.common.errors import InputError
from heated.common.geometry import l2_normalize
from heated.evaluation.low_precision_screen import (
    Block,
    Screen,
    half_step,
    pairs,
    portions,
    rounded,
)
from heated.runtime.device import fast_dtype

GRID = 2**32  # cosines are compared as whole multiples of 1 / GRID
FAR = -2 * GRID  # farther than any sample
STRIP = {"cpu": 128, "cuda": 1024}  # queries whose same-class cosines are one product


@dataclass(frozen=True)
class Ranks:
    """For B queries, int64, ranks from 1: `nearest` (B,), of the nearest same-class sample, 0 if it
    is deeper than asked for; `within` (B, W), of the same-class samples up to R, rising, then 0;
    `relevant` (B,), R: same-class samples in the gallery. `doubtful`: cosines decided in float64.
    """

    nearest: Tensor
    within: Tensor
    relevant: Tensor
    doubtful: int = 0


@dataclass(frozen=True)
class Queries:
    """B queries in the order of classes, each (B,) int64: the sample's number, where its class
    starts and stops in the gallery, its own place there (-1: none), and R."""

    sample: Tensor
    start: Tensor
    stop: Tensor
    own: Tensor
    relevant: Tensor

    def __getitem__(self, block: slice) -> "Queries":
        return Queries(*(getattr(self, field.name)[block] for field in fields(self)))


class Neighbours:
    """Queries and a gallery, each in the order of classes, and the ranks of a block of queries.

    Args:
        embeddings: (N, D) floating, of any length.
        labels: (N,) int64.
        query: (N,) bool, all samples by default; `gallery` likewise.
        deepest: The nearest same-class sample is ranked up to here.
        within: Whether all same-class samples are ranked up to R.
        memory: MiB for what grows with queries x gallery; in addition, three copies of the
            embeddings. Results depend neither on it nor on `dtype`, the screen's, by default what
            the hardware does fast.

    Raises:
        InputError: If embeddings are not finite floats, one per label, or there is no query or no
            gallery.
    """

    def __init__(
        self,
        embeddings: Tensor,
        labels: Tensor,
        *,
        query: Tensor | None = None,
        gallery: Tensor | None = None,
        deepest: int,
        within: bool = True,
        memory: int = 128,
        dtype: torch.dtype | None = None,
    ) -> None:
        checked(embeddings, labels)
        order = labels.argsort(stable=True)
        samples = order if query is None else order[query[order]]
        self.gallery = order if gallery is None else order[gallery[order]]
        if not len(samples) or not len(self.gallery):
            raise InputError(f"came {len(samples)} queries and {len(self.gallery)} in the gallery")
        classes, own = labels[self.gallery], inverse(self.gallery, len(labels))[samples]
        start = torch.searchsorted(classes, labels[samples])
        stop = torch.searchsorted(classes, labels[samples], right=True)
        relevant = stop - start - (own >= 0).long()
        self.queries = Queries(samples, start, stop, own, relevant)
        self.deepest, self.within = deepest, within
        self.unit = l2_normalize(embeddings)
        self.low = rounded(self.unit, dtype or fast_dtype(self.unit.device))
        most, size = int(self.queries.relevant.max()), len(self.gallery)
        bytes_a_query = size * self.low.values.element_size() + 128 * most
        half = memory * 2**20 // 2  # in bytes
        self.rows = min(len(samples), max(1, half // bytes_a_query))
        self.portion = half // 128  # candidates, of about so many bytes each
        # Shuffled, so that a class's samples are in different chunks of the screen.
        shuffle = torch.randperm(size, generator=torch.Generator().manual_seed(0)).to(labels.device)
        self.shuffle, self.column = shuffle, inverse(shuffle, size)
        # the largest power of 2 up to 64 that leaves at least 8 chunks a same-class sample
        width = 1 << max(0, min(6, (size // (8 * max(most, 1))).bit_length() - 1))
        self.screen = Screen(self.low[self.gallery[shuffle]], rows=self.rows, width=width)

    def blocks(self) -> list[slice]:
        """The queries in blocks that are screened at once."""
        return [slice(i, i + self.rows) for i in range(0, len(self.queries.sample), self.rows)]

    def ranks(self, block: slice) -> Ranks:
        """The ranks of a block's queries."""
        queries = self.queries[block]
        right, own = self.same_class(queries), queries.own
        hidden = torch.where(own >= 0, self.column[own], own)
        screened = self.screen.multiply(self.low[queries.sample], hidden=hidden)
        sought = self.sought(queries, screened, right)
        farthest = right.gather(1, (sought - 1).clamp(min=0)[:, None])[:, 0].double() / GRID
        costs = screened.reaching(farthest).sum(dim=1) * (sought > 0) * self.screen.width
        counts, doubtful = torch.zeros_like(F.pad(right, (0, 1))), 0
        for rows in portions(costs, self.portion):
            found = screened.candidates(rows, farthest)
            doubtful += self.count(queries, screened, right, candidates=found, counts=counts)
        nearer = counts.cumsum(dim=1)[:, :-1]  # samples of other classes, than each of the same
        places = torch.arange(nearer.shape[1], device=nearer.device)
        ranks = (nearer + places + 1).masked_fill(places >= sought[:, None], 0)
        nearest = ranks[:, 0].masked_fill(ranks[:, 0] > self.deepest, 0)
        within = ranks.masked_fill(ranks > queries.relevant[:, None], 0)
        return Ranks(nearest, within, queries.relevant, doubtful)

    def same_class(self, queries: Queries) -> Tensor:
        """(B, W) the same-class samples' cosines on the grid, falling, padded with FAR."""
        device, size = self.gallery.device, STRIP[self.gallery.device.type]
        steps = torch.arange(max(1, int((queries.stop - queries.start).max())), device=device)
        parts = []
        for begin in range(0, len(queries.sample), size):
            piece = queries[begin : begin + size]
            first = min(int(piece.start[0]), len(self.gallery) - 1)
            last = max(int(piece.stop[-1]), first + 1)
            strip = self.unit[piece.sample] @ self.unit[self.gallery[first:last]].T
            places = piece.start[:, None] + steps
            cosines = on_grid(strip).gather(1, (places - first).clamp(max=last - first - 1))
            wrong = (places >= piece.stop[:, None]) | (places == piece.own[:, None])
            parts.append(cosines.masked_fill(wrong, FAR))
        width = max(1, int(queries.relevant.max()))
        return torch.cat(parts).sort(dim=1, descending=True).values[:, :width]

    def sought(self, queries: Queries, screened: Block, right: Tensor) -> Tensor:
        """(B,) how many same-class samples, nearest first, are to be ranked."""
        wanted = torch.zeros_like(right[:, 0])
        if self.within:
            wanted = (right >= outermost(queries.relevant, screened)[:, None]).sum(dim=1)
        nearest = right[:, 0].double() / GRID + screened.bound
        surely_nearer = (screened.maxima > screened.stored(nearest)[:, None]).sum(dim=1)
        reachable = (surely_nearer < self.deepest) & (right[:, 0] > FAR)
        return torch.maximum(wanted, reachable.long())

    def count(
        self,
        queries: Queries,
        screened: Block,
        right: Tensor,
        *,
        candidates: tuple[Tensor, Tensor, Tensor],
        counts: Tensor,
    ) -> int:
        """Add each candidate of another class to `counts` (B, W + 1), at the nearest same-class
        sample that it is at least as near as. Return how many were in doubt."""
        row, column, product = candidates
        place = self.shuffle[column]
        other = (place < queries.start[row]) | (place >= queries.stop[row])
        row, place, product = row[other], place[other], product[other]
        reach = half_step(product) + screened.bound[row]
        lowest = ((product - reach) * GRID).floor().long()
        highest = ((product + reach) * GRID).ceil().long()

        surely_nearer = torch.bincount(row[lowest > right[row, 0]], minlength=len(right))
        deep = surely_nearer >= queries.relevant.clamp(min=self.deepest)
        counts[deep, 0] += surely_nearer[deep]
        kept = ~deep[row]
        row, place, lowest, highest = row[kept], place[kept], lowest[kept], highest[kept]

        nearer_than = standing(right, row, highest)
        doubt = torch.nonzero(nearer_than != standing(right, row, lowest))[:, 0]
        cosines = self.cosines(queries.sample[row[doubt]], self.gallery[place[doubt]])
        nearer_than[doubt] = standing(right, row[doubt], cosines)
        counts += torch.bincount(
            row * counts.shape[1] + nearer_than, minlength=counts.numel()
        ).view_as(counts)
        return len(doubt)

    def cosines(self, one: Tensor, other: Tensor) -> Tensor:
        """(P,) on the grid, of P pairs of samples; `one` with equal ones together."""
        rows, numbers = torch.unique_consecutive(one, return_inverse=True)
        if 16 * len(one) > len(rows) * len(self.unit):
            return on_grid(self.unit[rows] @ self.unit.T)[numbers, other]
        found = [vecdot(self.unit[a], self.unit[b]) for a, b in pairs(one, other)]
        return on_grid(torch.cat(found))


def outermost(relevant: Tensor, screened: Block) -> Tensor:
    """(B,) on the grid: no rank up to R is farther, since the R-th largest of the chunks' maxima
    proves that R samples are at least as near."""
    chunks = screened.maxima.shape[1]
    top = screened.maxima.topk(min(chunks, max(1, int(relevant.max()))), dim=1).values
    last = (relevant - 1).clamp(min=0, max=top.shape[1] - 1)
    known = top.gather(1, last[:, None])[:, 0]
    at_least = known.double() - half_step(known) - screened.bound
    at_least = at_least.masked_fill((known == -torch.inf) | (relevant > chunks), -1.5)
    return (at_least * GRID).floor().long()


def checked(embeddings: Tensor, labels: Tensor) -> None:
    """Raise InputError if there is not one finite embedding per label."""
    shaped = embeddings.ndim == 2 and labels.shape == embeddings.shape[:1] and len(labels)
    if not shaped or not embeddings.is_floating_point() or labels.dtype != torch.int64:
        raise InputError(
            f"came embeddings {tuple(embeddings.shape)} of {embeddings.dtype} and labels "
            f"{tuple(labels.shape)} of {labels.dtype}; allowed: floating-point embeddings (N, D) "
            "and int64 labels (N,), N at least 1"
        )
    if not torch.isfinite(embeddings).all():
        wrong = int((~torch.isfinite(embeddings)).any(dim=1).sum())
        raise InputError(f"{wrong} of {len(labels)} embeddings hold NaN or infinity")


def inverse(numbers: Tensor, size: int) -> Tensor:
    """(size,) where each of 0..size - 1 stands among the distinct `numbers`; -1: nowhere."""
    places = torch.full((size,), -1, device=numbers.device)
    places[numbers] = torch.arange(len(numbers), device=numbers.device)
    return places


def on_grid(cosines: Tensor) -> Tensor:
    """Cosines (float64) as whole multiples of 1 / GRID."""
    return (cosines * GRID).round_().long()


def standing(right: Tensor, row: Tensor, cosines: Tensor) -> Tensor:
    """How many of the falling `right[row]` are greater than each cosine, all on the grid."""
    apart = 8 * GRID  # more than entries of a row differ: the rows are then one rising sequence
    starts = torch.arange(len(right), device=right.device)[:, None] * apart
    sequence = (starts - right).flatten()
    return torch.searchsorted(sequence, row * apart - cosines) - row * right.shape[1]
