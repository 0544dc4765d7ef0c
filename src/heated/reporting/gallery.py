"""Neighbour galleries: a few queries of a trained method with what is found nearest to them.

Queries are ordered by MAP@R (Musgrave et al., arXiv 2003.08505), over all queries: *best* are the
highest, *worst* the lowest, *typical* those next to the median. Equal ones are ordered by how many
images of the class there are to be found (more first: harder to have all, worse to have none), then
by their number. Of a class only the first is shown of each kind, unless there are too few classes.
Queries that nothing in the gallery matches are left out.
"""

import io
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from heated.common.geometry import l2_normalize
from heated.common.io import read_arrays, required
from heated.data.packed_dataset import Packed, unpack
from heated.evaluation.ranking import GRID, NeighborSearch
from heated.evaluation.retrieval import map_at_r

NEAREST = 5
SMALL = 64  # pixels a side, up to which an image is kept pixel by pixel
THUMBNAIL = 112
QUALITY = 70
Numbers = NDArray[np.int64]
Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Shown:
    """A query and its nearest, nearest first, as rows of the embeddings; `right` says of which
    class each of the nearest is: the query's or another."""

    kind: str
    query: int
    score: float
    nearest: list[int]
    right: list[bool]


@dataclass(frozen=True)
class Picture:
    """An image and its class; `right`: whether it is the query's class; `small`: to be enlarged
    pixel by pixel."""

    uri: str
    class_name: str
    right: bool
    small: bool


@dataclass(frozen=True)
class Example:
    """A query (its kind and MAP@R) with its nearest, nearest first."""

    kind: str
    score: float
    query: Picture
    nearest: list[Picture]


def examples(packed: Path, embeddings: Path, *, count: int, memory: int) -> list[Example]:
    """`count` queries of each kind of a data set, by a seed's embeddings of its test images;
    FileNotFoundError that names the stage which makes a missing file."""
    if count == 0:
        return []
    data, arrays = unpack(packed), read_arrays(required(embeddings, "embed"))
    numbers = np.flatnonzero(data.split.query | data.split.gallery)
    assert np.array_equal(data.labels[numbers], arrays["labels"])
    found = []
    for shown in gallery(arrays, count=count, memory=memory):
        rows = zip([shown.query, *shown.nearest], [True, *shown.right], strict=True)
        query, *nearest = [picture(data, int(numbers[row]), right) for row, right in rows]
        found.append(Example(shown.kind, shown.score, query, nearest))
    return found


def picture(data: Packed, number: int, right: bool) -> Picture:
    """An image of the data set with its class."""
    image, name = data.images[number], data.class_names[data.labels[number]]
    return Picture(data_uri(image), name, right, max(image.shape[:2]) <= SMALL)


def data_uri(image: NDArray[np.uint8]) -> str:
    """An image (H, W, C), C being 1 or 3, as PNG where it is small, else a thumbnail as WebP."""
    drawn = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    file = io.BytesIO()
    if max(drawn.size) <= SMALL:
        kind = "png"
        drawn.save(file, kind, compress_level=9)
    else:
        kind = "webp"
        drawn.thumbnail((THUMBNAIL, THUMBNAIL))
        drawn.save(file, kind, quality=QUALITY)
    return f"data:image/{kind};base64,{b64encode(file.getvalue()).decode()}"


def gallery(arrays: Mapping[str, NDArray[Any]], *, count: int, memory: int) -> list[Shown]:
    """`count` queries of each kind, with their nearest in the gallery.

    arrays: what an embeddings file holds: embeddings (N, D), labels (N,), query and gallery (N,).
    memory: MiB for what grows with queries x gallery.
    """
    given = {name: torch.from_numpy(array) for name, array in arrays.items()}
    queries, scores, relevant = scored(given, memory)
    labels, found = arrays["labels"], []
    for kind, order in orders(queries, scores, relevant).items():
        places = chosen_of(order, labels[queries], count)
        nearest = neighbours(given, queries[places])
        for place, rows in zip(places, nearest, strict=True):
            right = (labels[rows] == labels[queries[place]]).tolist()
            found.append(Shown(kind, int(queries[place]), float(scores[place]), rows, right))
    return found


def scored(given: Mapping[str, Tensor], memory: int) -> tuple[Numbers, Scores, Numbers]:
    """Number, MAP@R and R of each query that can be answered, by rising number."""
    options: Any = {name: given[name] for name in ("query", "gallery")}
    searched = NeighborSearch(
        given["embeddings"], given["labels"], **options, max_k=1, memory_mib=memory
    )
    scores = torch.cat([map_at_r(searched.ranks(block)) for block in searched.blocks])
    queries, relevant = searched.queries.index, searched.queries.num_positives
    order = queries.argsort()
    order = order[relevant[order] > 0]
    return queries[order].numpy(), scores[order].numpy(), relevant[order].numpy()


def orders(queries: Numbers, scores: Scores, relevant: Numbers) -> dict[str, Numbers]:
    """The queries' places by kind: best first, nearest to the median first, worst first."""
    typical = np.abs(scores - np.median(scores))
    keys = {"best": -scores, "typical": typical, "worst": scores}
    return {kind: np.lexsort((queries, -relevant, key)) for kind, key in keys.items()}


def chosen_of(order: Numbers, labels: Numbers, count: int) -> Numbers:
    """The first `count` places in this order, of different classes as long as there are any."""
    firsts = np.sort(np.unique(labels[order], return_index=True)[1])
    rest = np.setdiff1d(np.arange(len(order)), firsts)
    return order[np.concatenate([firsts, rest])[:count]]


def neighbours(given: Mapping[str, Tensor], queries: Sequence[int] | Numbers) -> list[list[int]]:
    """The nearest of each query in the gallery by cosine, itself left out; of equally near ones
    those of other classes first, then by number."""
    unit, labels = l2_normalize(given["embeddings"]), given["labels"].numpy()
    numbers = np.flatnonzero(given["gallery"].numpy())
    found = []
    for query in queries:
        others = numbers[numbers != query]
        cosines = np.rint((unit[others] @ unit[query]).numpy() * GRID)
        order = np.lexsort((others, labels[others] == labels[query], -cosines))
        found.append(others[order[:NEAREST]].tolist())
    return found
