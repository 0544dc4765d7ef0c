"""The index: a folder with `embeddings.npy` (N, D) float32 of length 1, memory-mapped, and
`index.json`, which images they are of and by which model; beyond MANY images `index.faiss` too."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from tqdm import tqdm

from heated.common.errors import InputError
from heated.common.io import read_json, whole, write_json
from heated.inference.embedder import Embedder
from heated.search import approximate
from heated.search.images import Image, contents, listed
from heated.search.model import kept, named

ARRAY, RECORD, FAISS = "embeddings.npy", "index.json", "index.faiss"
MANY = 1_000_000  # images, from which on faiss searches
AT_ONCE = 256  # images that are decoded before they are embedded together
ROWS = 2**16  # of the index that are compared at once


@dataclass(frozen=True)
class Index:
    """An index as it lies in a folder; `embeddings` is a read-only memory map."""

    folder: Path
    embeddings: NDArray[np.float32]
    images: list[Image]
    model: str
    digest: str


def build(places: Sequence[Path], model: str, folder: Path) -> int:
    """Index the images at the places, written whole or not at all; returned: how many there are.
    InputError for an image that is none, and where the folder holds anything but an index."""
    if not replaceable(folder):
        raise InputError(f"{folder} is there already, and no index; name another folder")
    images = listed(places)
    if len(images) >= MANY:
        approximate.faiss()  # or say that it is missing, before the images are embedded
    embedder = named(model)
    shape = (len(images), embedder.model.architecture.embedding_dim)
    with whole(folder) as temporary:
        temporary.mkdir()
        array = open_memmap(temporary / ARRAY, "w+", np.dtype(np.float32), shape)
        for start, values in embedded(images, embedder):
            array[start : start + len(values)] = values
        array.flush()
        if len(images) >= MANY:
            approximate.write(temporary / FAISS, array)
        record = {"model": kept(model), "digest": embedder.digest, "images": images}
        write_json(temporary / RECORD, record)
    return len(images)


def replaceable(folder: Path) -> bool:
    """Whether nothing is lost where an index is written here."""
    empty = folder.is_dir() and not any(folder.iterdir())
    return empty or not folder.exists() or (folder / RECORD).is_file()


def embedded(
    images: Sequence[Image], embedder: Embedder
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """The embeddings of the images in pieces, each with the number of its first."""
    told = tqdm(contents(images), "indexing", len(images), unit="image", disable=None)
    squares = (embedder.square(content, str(image)) for image, content in told)
    start = 0
    while piece := list(islice(squares, AT_ONCE)):
        yield start, embedder.embeddings(piece)
        start += len(piece)
    assert start == len(images)


def opened(folder: Path) -> Index:
    """The index in a folder; InputError where there is none, or not a whole one."""
    if not (folder / RECORD).is_file() or not (folder / ARRAY).is_file():
        raise InputError(f"{folder} is no index; `python -m heated.search index` makes one")
    try:
        record, embeddings = read_json(folder / RECORD), np.load(folder / ARRAY, mmap_mode="r")
        images = [Image(*image) for image in record["images"]]
        index = Index(folder, embeddings, images, record["model"], record["digest"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder} is damaged ({error}); index the images again") from error
    if embeddings.ndim != 2 or len(embeddings) != len(images):
        raise InputError(f"{folder} is damaged: {len(images)} images; index them again")
    return index


def matching(index: Index, model: str | None = None) -> Embedder:
    """The index's model, or the same one by another name; InputError where it is another one."""
    embedder = named(model or index.model)
    if embedder.digest != index.digest:
        raise InputError(
            f"{model or index.model} is another model than the one that {index.folder} was made "
            "with; index the images again, or name that one by --model"
        )
    return embedder


def nearest(
    index: Index, queries: NDArray[np.float32], *, top: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Cosine distances (Q, K), rising, and the images' numbers (Q, K), of the K = `top` nearest to
    each of the queries (Q, D), which are of length 1; K is all there are where they are fewer."""
    top = min(top, len(index.images))
    if (index.folder / FAISS).is_file():
        cosines, numbers = approximate.nearest(index.folder / FAISS, queries, top=top)
    else:
        cosines, numbers = exact(index.embeddings, queries, top=top)
    return (1 - cosines).clip(0, 2), numbers


def exact(
    embeddings: NDArray[np.float32], queries: NDArray[np.float32], *, top: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Cosines, falling, and numbers of the nearest; of equal cosines the lower number first."""
    cosines = np.empty((len(queries), 0), dtype=np.float32)
    numbers = np.empty((len(queries), 0), dtype=np.int64)
    for start in range(0, len(embeddings), ROWS):
        block = queries @ embeddings[start : start + ROWS].T
        here = np.broadcast_to(np.arange(start, start + block.shape[1]), block.shape)
        cosines = np.concatenate([cosines, block], axis=1)
        numbers = np.concatenate([numbers, here], axis=1)
        order = np.argsort(-cosines, axis=1, kind="stable")[:, :top]
        cosines = np.take_along_axis(cosines, order, axis=1)
        numbers = np.take_along_axis(numbers, order, axis=1)
    return cosines, numbers
