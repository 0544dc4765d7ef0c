"""Search among very many images, by faiss: cells around centres, of which a query looks into those
nearest to it. The cosines are exact; an image in a cell farther off is missed."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heated.common.errors import InputError

ROWS = 2**16  # that are added at once
SAMPLES = 64  # a cell, from which the centres are found
SHARE = 16  # one cell of so many is looked into


def faiss() -> Any:
    """The library; InputError that says how to install it where it is not."""
    try:
        import faiss
    except ImportError as error:
        raise InputError(
            "so many images are searched by faiss, which is not installed: pip install faiss-cpu"
        ) from error
    return faiss


def write(path: Path, embeddings: NDArray[np.float32]) -> None:
    """An index of embeddings (N, D) of length 1, in 4 sqrt(N) cells."""
    library, (count, dim) = faiss(), embeddings.shape
    cells = max(1, min(round(4 * math.sqrt(count)), count // SAMPLES))
    index = library.IndexIVFFlat(library.IndexFlatIP(dim), dim, cells, library.METRIC_INNER_PRODUCT)
    sample = np.random.default_rng(0).choice(count, min(count, SAMPLES * cells), replace=False)
    index.train(np.ascontiguousarray(embeddings[np.sort(sample)]))
    for start in range(0, count, ROWS):
        index.add(np.ascontiguousarray(embeddings[start : start + ROWS]))
    library.write_index(index, str(path))


def nearest(
    path: Path, queries: NDArray[np.float32], *, top: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Cosines, falling, and numbers of the nearest that were found."""
    library = faiss()
    queries = np.ascontiguousarray(queries)  # a plain array, where rows of a mapped file came
    index = library.read_index(str(path), library.IO_FLAG_MMAP)
    index.nprobe = math.ceil(index.nlist / SHARE)
    cosines, numbers = index.search(queries, top)
    while (numbers < 0).any() and index.nprobe < index.nlist:  # the cells hold fewer than wanted
        index.nprobe = min(2 * index.nprobe, index.nlist)
        cosines, numbers = index.search(queries, top)
    return cosines, numbers
