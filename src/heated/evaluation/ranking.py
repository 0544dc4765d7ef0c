"""Rank each query's positives exactly, in blocks, on any device.

The positives of a query are the other gallery samples of its class; the negatives are of other
classes. Samples are ranked by cosine, which orders unit vectors as Euclidean distance does. Rules:

- A sample is never its own neighbor.
- Ties are broken against the query: negatives rank before positives at equal cosine. A network that
  maps everything to one point scores 0, and the order of samples does not matter. Cosines are equal
  if they round to the same multiple of 2^-32. An embedding of length 0 has cosine 0 with all.
- A query without positives has no ranks and scores 0.

All cosines are first computed in low precision, in tiles (`centered_products`). The negatives that
are nearer than positives are counted in each tile (`negative_counts`); cosines whose error bound
leaves that undecided are computed again in float64. Where the queries are the gallery, the product
of two samples is computed once and serves both as queries.
"""

import threading
from dataclasses import KW_ONLY, dataclass, fields
from itertools import combinations_with_replacement

import torch
from torch import Tensor
from torch.linalg import vecdot

from heated.common.errors import InputError
from heated.common.geometry import l2_normalize
from heated.common.io import MIB
from heated.evaluation.candidate_filter import map_pairs
from heated.evaluation.centered_products import (
    PIECE,
    CenteredVectors,
    center_vectors,
    multiply,
    product_bounds,
)
from heated.evaluation.negative_counts import PADDING, NegativeCounts, Tile, to_grid
from heated.evaluation.threads import map_in_threads
from heated.runtime.device import fast_dtype, float32_products
from heated.runtime.distributed import rank_and_world_size

ALIGNMENT = 32  # the sides of a tile are multiples of it
TILE = {"cpu": 1536, "cuda": 8192}  # the longest side of a tile
PRODUCT_BYTES = 24  # per product of a tile, with all intermediate values
STATE_BYTES = 64  # per query and positive
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
    memory_mib: int = 128  # of what grows with queries x gallery, beyond 4 copies of embeddings
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
        # a sum is fast; only if it is not finite, each value is looked at
        invalid = 0 if torch.isfinite(self.embeddings.sum()) else count_invalid(self.embeddings)
        if invalid:
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
        self.prepare_vectors(index)
        self.plan(max(1, int(num_positives.max())))

    def prepare_vectors(self, index: Tensor) -> None:
        """Normalize the embeddings; center and round queries and gallery."""
        self.unit = torch.empty_like(self.embeddings, dtype=torch.float64)

        def normalize(start: int) -> None:
            piece = slice(start, start + PIECE)
            self.unit[piece] = l2_normalize(self.embeddings[piece])

        map_in_threads(normalize, range(0, len(self.unit), PIECE), self.unit.device)
        # the mean of a sample, to be fast
        center = self.unit[:: max(1, len(self.unit) // 1024)].mean(dim=0)
        self.offset = float(center @ center)
        dtype = self.dtype or fast_dtype(self.unit.device)
        self.gallery_vectors = center_vectors(self.unit, self.sorted_gallery, center, dtype)
        self.symmetric = torch.equal(index, self.sorted_gallery)
        self.query_vectors = self.gallery_vectors
        if not self.symmetric:
            self.query_vectors = center_vectors(self.unit, index, center, dtype)

    def plan(self, most: int) -> None:
        """Choose the size of tiles and the blocks of queries by memory."""
        size, count = len(self.sorted_gallery), len(self.queries.index)
        memory, (_, processes) = self.memory_mib * MIB, rank_and_world_size()
        # bytes per query, at most half of the memory
        rows = max(1, memory // 2 // (STATE_BYTES * (most + 1)))
        self.symmetric &= processes == 1 and rows >= count
        rows = min(rows, -(-count // processes))
        self.blocks = [slice(start, start + rows) for start in range(0, count, rows)]
        device = self.unit.device.type
        threads = torch.get_num_threads() if device == "cpu" else 1
        left = max(memory // 2, memory - rows * STATE_BYTES * (most + 1))
        side = int((left / PRODUCT_BYTES / threads) ** 0.5)
        self.tile = max(ALIGNMENT, min(TILE[device], side) // ALIGNMENT * ALIGNMENT)
        # the largest power of 2 up to 32 that leaves at least 8 chunks per positive
        self.width = 1 << max(0, min(5, (size // (8 * most)).bit_length() - 1))

    @float32_products()  # the error bounds need float32 sums
    def ranks(self, block: slice) -> Ranks:
        """Rank the positives of a block of queries."""
        queries, vectors = self.queries[block], self.query_vectors[block]
        counts = NegativeCounts.start(
            self.positive_cosines(queries),
            queries.num_positives,
            product_bounds(vectors, self.gallery_vectors),
            offset=self.offset,
            max_k=self.max_k,
            rank_all_positives=self.rank_all_positives,
            dtype=vectors.left.dtype,
        )
        num_recomputed = self.count_negatives(queries, vectors, counts)
        places = torch.arange(counts.positives.shape[1], device=self.unit.device)
        ranks = counts.counts.cumsum(dim=1)[:, :-1] + places + 1
        nearest = ranks[:, 0] * (queries.num_positives > 0) * (ranks[:, 0] <= self.max_k)
        within_r = ranks.masked_fill(places >= counts.needed[:, None], 0)
        return Ranks(nearest, within_r, queries.num_positives, num_recomputed)

    def count_negatives(
        self, queries: Queries, vectors: CenteredVectors, counts: NegativeCounts
    ) -> int:
        """Add the tiles of all products to the counts; return how many float64 cosines it took."""
        symmetric = self.symmetric and len(queries.index) == len(self.queries.index)
        rows, columns = (
            split_evenly(len(each), self.tile) for each in (queries.index, self.sorted_gallery)
        )
        locks, buffers = [threading.Lock() for _ in rows], threading.local()
        labels = self.labels[queries.index], self.labels[self.sorted_gallery]

        def add_tile(place: tuple[int, int]) -> int:
            row, column = rows[place[0]], columns[place[1]]
            if not symmetric or place[0] != place[1]:
                return add_products(place, row, column)
            # the products below the diagonal are known
            pairs = combinations_with_replacement(halve(row), 2)
            return sum(add_products(place, *pair) for pair in pairs)

        def add_products(place: tuple[int, int], row: slice, column: slice) -> int:
            if not hasattr(buffers, "products"):
                buffers.products = vectors.left.new_empty(self.tile**2)
            products = multiply(
                vectors.left[row], self.gallery_vectors.right[column], ALIGNMENT, buffers.products
            )
            mask_positives(products, labels[0][row], labels[1][column])

            def exact(query: Tensor, sample: Tensor) -> Tensor:
                return self.exact_cosines(
                    queries.index[row], self.sorted_gallery[column], query, sample
                )

            with locks[place[0]]:
                recomputed = counts[row].add(Tile(products, 0, self.width), exact)
            if symmetric and row != column:
                with locks[place[1]]:
                    recomputed += counts[column].add(
                        Tile(products, 1, self.width), lambda query, sample: exact(sample, query)
                    )
            return recomputed

        # by diagonals, so that threads seldom wait for the same queries
        places = [(i, j) for i in range(len(rows)) for j in range(i * symmetric, len(columns))]
        places.sort(key=lambda place: (place[1] - place[0]) % len(columns))
        return sum(map_in_threads(add_tile, places, self.unit.device))

    def exact_cosines(
        self, queries: Tensor, gallery: Tensor, query: Tensor, sample: Tensor
    ) -> Tensor:
        """Return (P,) int64, cosines of `queries[query]` and `gallery[sample]`."""
        if 16 * len(query) > len(queries) * len(gallery):
            return to_grid((self.unit[queries] @ self.unit[gallery].T)[query, sample])
        return to_grid(map_pairs(vecdot, self.unit, self.unit, queries[query], gallery[sample]))

    def positive_cosines(self, queries: Queries) -> Tensor:
        """Return (B, W) int64, cosines with the positives, descending, then PADDING."""
        device, size = self.unit.device, STRIP[self.unit.device.type]
        steps = torch.arange(max(1, int((queries.stop - queries.start).max())), device=device)

        def strip_cosines(begin: int) -> Tensor:
            piece = queries[begin : begin + size]
            first = min(int(piece.start[0]), len(self.sorted_gallery) - 1)
            last = max(int(piece.stop[-1]), first + 1)
            strip = self.unit[piece.index] @ self.unit[self.sorted_gallery[first:last]].T
            places = piece.start[:, None] + steps
            cosines = to_grid(strip).gather(1, (places - first).clamp(max=last - first - 1))
            invalid = (places >= piece.stop[:, None]) | (places == piece.position[:, None])
            return cosines.masked_fill_(invalid, PADDING)

        parts = map_in_threads(strip_cosines, range(0, len(queries.index), size), device)
        width = max(1, int(queries.num_positives.max()))
        return torch.cat(parts).sort(dim=1, descending=True).values[:, :width]


def count_invalid(embeddings: Tensor) -> int:
    """Count the rows of (N, D) that have NaN or infinity."""
    return int((~torch.isfinite(embeddings)).any(dim=1).sum())


def mask_positives(products: Tensor, queries: Tensor, gallery: Tensor) -> None:
    """Set products of one class, and padding, to -inf; the labels (Q,) and (G,) are ascending."""
    products[len(queries) :] = products[:, len(gallery) :] = -torch.inf
    if queries[0] <= gallery[-1] and gallery[0] <= queries[-1]:
        start = torch.searchsorted(gallery, queries)
        counts = torch.searchsorted(gallery, queries, right=True) - start
        row = torch.repeat_interleave(counts)  # of each positive
        first = start - (counts.cumsum(dim=0) - counts)
        column = torch.arange(len(row), device=row.device) + first[row]
        products[row, column] = -torch.inf


def split_evenly(size: int, most: int) -> list[slice]:
    """Split a range into slices of equal, aligned length; the last one may be shorter."""
    step = -(-size // -(-size // most))
    step += -step % ALIGNMENT
    return [slice(start, min(start + step, size)) for start in range(0, size, step)]


def halve(block: slice) -> list[slice]:
    """Split a slice into two of about equal, aligned length, or one if it is short."""
    size = block.stop - block.start
    parts = split_evenly(size, -(-size // 2))
    return [slice(block.start + part.start, block.start + part.stop) for part in parts]


def index_positions(indices: Tensor, size: int) -> Tensor:
    """Return (size,) int64, the position of each of 0..size - 1 in the unique `indices`, or -1."""
    positions = torch.full((size,), -1, device=indices.device)
    positions[indices] = torch.arange(len(indices), device=indices.device)
    return positions
