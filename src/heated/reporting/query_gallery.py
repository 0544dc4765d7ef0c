"""Neighbor galleries: some queries of a trained method with the nearest images in the gallery.

Queries are ranked by MAP@R (Musgrave et al., arXiv 2003.08505) over all queries that have a match
in the gallery: *best* are the highest, *worst* the lowest, *typical* those closest to the median.
Ties are broken by the number of matches (more first: a full score is harder, a score of 0 is
worse), then by index. Each kind shows a class once, unless there are too few classes.
"""

import io
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from heated.common.geometry import l2_normalize
from heated.common.io import read_embeddings, require_output, wrap_damage
from heated.data.packed_dataset import load_packed
from heated.evaluation.metrics import map_at_r
from heated.evaluation.negative_counts import GRID
from heated.evaluation.ranking import NeighborSearch

NEIGHBORS = 5
MAX_PNG_SIDE = 64  # pixels; larger images become thumbnails
THUMBNAIL = 112
Indices = NDArray[np.int64]
Arrays = Mapping[str, NDArray[Any]]


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
class GalleryQuery:
    """A query with its kind, its MAP@R and its nearest images, nearest first."""

    kind: str
    map_at_r: float
    query: Thumbnail
    neighbors: list[Thumbnail]


def load_gallery(
    packed: Path, embeddings: Path, *, count: int, memory_mib: int
) -> list[GalleryQuery]:
    """Load `count` queries of each kind with their nearest images, from one seed's embeddings.

    `memory_mib` limits what grows with queries x gallery.
    """
    if count == 0:
        return []
    data, arrays = load_packed(packed), read_embeddings(require_output(embeddings, "embed"))
    indices = np.flatnonzero(data.split.query | data.split.gallery)
    labels = data.labels[indices]
    with wrap_damage(embeddings):
        if not np.array_equal(labels, arrays["labels"]):
            raise ValueError(f"got other labels than {packed}")
    found = []
    for ranked in select_queries(arrays, count=count, memory_mib=memory_mib):
        thumbnails = []
        for row in (ranked.query, *ranked.neighbors):
            image = data.images[indices[row]]
            name, matches = data.class_names[labels[row]], labels[row] == labels[ranked.query]
            pixelated = max(image.shape[:2]) <= MAX_PNG_SIDE
            thumbnails.append(Thumbnail(data_uri(image), name, bool(matches), pixelated))
        query, *neighbors = thumbnails
        found.append(GalleryQuery(ranked.kind, ranked.map_at_r, query, neighbors))
    return found


def data_uri(image: NDArray[np.uint8]) -> str:
    """Encode an (H, W, 1) or (H, W, 3) image: a small one as PNG, others as a WebP thumbnail."""
    picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    file, kind = io.BytesIO(), "png" if max(picture.size) <= MAX_PNG_SIDE else "webp"
    if kind == "webp":
        picture.thumbnail((THUMBNAIL, THUMBNAIL))
    picture.save(file, kind, compress_level=9, quality=70)  # each format has one of the two
    return f"data:image/{kind};base64,{b64encode(file.getvalue()).decode()}"


def select_queries(arrays: Arrays, *, count: int, memory_mib: int) -> list[RankedQuery]:
    """Select `count` queries of each kind, with their nearest images in the gallery.

    `arrays`: embeddings (N, D); labels, query, gallery (N,). Neighbors' ties are against the query.
    """
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    queries, scores, relevant = score_queries(tensors, memory_mib)
    unit, labels = l2_normalize(tensors["embeddings"]), arrays["labels"]
    gallery = np.flatnonzero(arrays["gallery"])
    keys = {"best": -scores, "typical": np.abs(scores - np.median(scores)), "worst": scores}
    found = []
    for kind, key in keys.items():
        order = np.lexsort((queries, -relevant, key))
        firsts = np.sort(np.unique(labels[queries][order], return_index=True)[1])
        rest = np.setdiff1d(np.arange(len(order)), firsts)
        for i in order[np.concatenate([firsts, rest])[:count]]:  # distinct classes first
            query = int(queries[i])
            candidates = gallery[gallery != query]
            cosines = np.rint((unit[candidates] @ unit[query]).numpy() * GRID)
            nearest = np.lexsort((candidates, labels[candidates] == labels[query], -cosines))
            neighbors = candidates[nearest[:NEIGHBORS]].tolist()
            found.append(RankedQuery(kind, query, float(scores[i]), neighbors))
    return found


def score_queries(
    tensors: Mapping[str, Any], memory_mib: int
) -> tuple[Indices, NDArray[np.float64], Indices]:
    """Return the index, MAP@R and R of each query with a match, in the order of the indices."""
    search = NeighborSearch(**tensors, max_k=1, memory_mib=memory_mib)
    scores = torch.cat([map_at_r(search.ranks(block)) for block in search.blocks])
    queries, relevant = search.queries.index, search.queries.num_positives
    order = queries.argsort()
    order = order[relevant[order] > 0]
    return queries[order].numpy(), scores[order].numpy(), relevant[order].numpy()
