"""Neighbor galleries: some queries with the nearest images in the gallery, by method.

The first method chooses the queries, and the others answer the same ones.
Queries are ranked by MAP@R (Musgrave et al., arXiv 2003.08505) over all queries that have a match
in the gallery: *best* are the highest, *worst* the lowest, *typical* those closest to the median.
Ties are broken by the number of matches (more first: a full score is harder, a score of 0 is
worse), then by index. Each kind shows a class once, unless there are too few classes.
"""

import io
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from heated.common.geometry import l2_normalize
from heated.common.io import read_embeddings, require_output, wrap_damage
from heated.common.outputs import check_outputs
from heated.data.packed_dataset import PackedDataset, load_packed
from heated.evaluation.metrics import map_at_r
from heated.evaluation.negative_counts import GRID
from heated.evaluation.ranking import NeighborSearch

NEIGHBORS = 5
MAX_PNG_SIDE = 64  # pixels; larger images become thumbnails
THUMBNAIL = 112
Indices = NDArray[np.int64]
Scores = NDArray[np.float64]
Arrays = Mapping[str, NDArray[Any]]
Choice = tuple[str, int]  # the kind and the row of a query


@dataclass(frozen=True)
class RankedQuery:
    """A query and its nearest images, as rows of the embeddings."""

    kind: str
    query: int
    map_at_r: float
    neighbors: list[int]


@dataclass(frozen=True)
class Thumbnail:
    """An image as a data URI, its class, and whether that is the query's class."""

    uri: str
    class_name: str
    matches: bool
    pixelated: bool


@dataclass(frozen=True)
class GalleryRow:
    """A method's MAP@R for a query, and its nearest images, nearest first."""

    method: str
    map_at_r: float
    neighbors: list[Thumbnail]


@dataclass(frozen=True)
class GalleryQuery:
    """A query with its kind, and a row for each method."""

    kind: str
    query: Thumbnail
    rows: list[GalleryRow]


def load_gallery(
    packed: Path, embeddings: Mapping[str, Path], *, count: int, memory_mib: int
) -> list[GalleryQuery]:
    """Load `count` queries of each kind with their nearest images, from one seed's embeddings.

    `embeddings` has the file of each method; the first method chooses the queries. `memory_mib`
    limits what grows with queries x gallery. Raises InputError if a file differs from its digest in
    dvc.lock.
    """
    if count == 0:
        return []
    check_outputs([packed, *(path.parent for path in embeddings.values())])
    data = load_packed(packed)
    indices = np.flatnonzero(data.split.query | data.split.gallery)
    ranked: dict[str, list[RankedQuery]] = {}
    chosen: list[Choice] = []
    for method, path in embeddings.items():
        arrays = read_embeddings(require_output(path, "embed"))
        with wrap_damage(path):
            if not np.array_equal(data.labels[indices], arrays["labels"]):
                raise ValueError(f"got other labels than {packed}")
        ranked[method] = rank_queries(arrays, chosen, count=count, memory_mib=memory_mib)
        chosen = [(each.kind, each.query) for each in ranked[method]]
    found = []
    for answers in zip(*ranked.values(), strict=True):
        query, rows = indices[answers[0].query], []
        for method, each in zip(ranked, answers, strict=True):
            neighbors = [make_thumbnail(data, indices[row], query) for row in each.neighbors]
            rows.append(GalleryRow(method, each.map_at_r, neighbors))
        found.append(GalleryQuery(answers[0].kind, make_thumbnail(data, query, query), rows))
    return found


def make_thumbnail(data: PackedDataset, index: int, query: int) -> Thumbnail:
    """Return an image of a data set as the answer to a query."""
    image, label = data.images[index], data.labels[index]
    pixelated = max(image.shape[:2]) <= MAX_PNG_SIDE
    matches = bool(label == data.labels[query])
    return Thumbnail(data_uri(image), data.class_names[label], matches, pixelated)


def data_uri(image: NDArray[np.uint8]) -> str:
    """Encode an (H, W, 1) or (H, W, 3) image: a small one as PNG, others as a WebP thumbnail."""
    picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    file, kind = io.BytesIO(), "png" if max(picture.size) <= MAX_PNG_SIDE else "webp"
    if kind == "webp":
        picture.thumbnail((THUMBNAIL, THUMBNAIL))
    picture.save(file, kind, compress_level=9, quality=70)  # each format has one of the two
    return f"data:image/{kind};base64,{b64encode(file.getvalue()).decode()}"


def rank_queries(
    arrays: Arrays, chosen: Sequence[Choice] = (), *, count: int, memory_mib: int
) -> list[RankedQuery]:
    """Rank the gallery for the chosen queries, by default for `count` of each kind.

    `arrays`: embeddings (N, D); labels, query, gallery (N,). Neighbors' ties are against the query.
    """
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    queries, scores, relevant = score_queries(tensors, memory_mib)
    unit, labels = l2_normalize(tensors["embeddings"]), arrays["labels"]
    gallery = np.flatnonzero(arrays["gallery"])
    score = dict(zip(queries.tolist(), scores.tolist(), strict=True))
    found = []
    for kind, query in chosen or choose_queries(labels[queries], queries, scores, relevant, count):
        candidates = gallery[gallery != query]
        cosines = np.rint((unit[candidates] @ unit[query]).numpy() * GRID)
        nearest = np.lexsort((candidates, labels[candidates] == labels[query], -cosines))
        neighbors = candidates[nearest[:NEIGHBORS]].tolist()
        found.append(RankedQuery(kind, query, score[query], neighbors))
    return found


def choose_queries(
    labels: Indices, queries: Indices, scores: Scores, relevant: Indices, count: int
) -> Iterator[Choice]:
    """Yield `count` queries of each kind; all arguments have a value per query."""
    keys = {"best": -scores, "typical": np.abs(scores - np.median(scores)), "worst": scores}
    for kind, key in keys.items():
        order = np.lexsort((queries, -relevant, key))
        firsts = np.sort(np.unique(labels[order], return_index=True)[1])
        rest = np.setdiff1d(np.arange(len(order)), firsts)
        for i in order[np.concatenate([firsts, rest])[:count]]:  # distinct classes first
            yield kind, int(queries[i])


def score_queries(tensors: Mapping[str, Any], memory_mib: int) -> tuple[Indices, Scores, Indices]:
    """Return the index, MAP@R and R of each query with a match, in the order of the indices."""
    search = NeighborSearch(**tensors, max_k=1, memory_mib=memory_mib)
    scores = torch.cat([map_at_r(search.ranks(block)) for block in search.blocks])
    queries, relevant = search.queries.index, search.queries.num_positives
    order = queries.argsort()
    order = order[relevant[order] > 0]
    return queries[order].numpy(), scores[order].numpy(), relevant[order].numpy()
