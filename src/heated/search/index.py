"""The index: a folder with `embeddings.npy` (N, D) float32 of length 1, memory-mapped, and
`index.json`, which images they are of and by which model; beyond MANY images `index.faiss` too."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from tqdm import tqdm

from heated.common.errors import InputError
from heated.common.io import read_json, whole, write_json
from heated.common.paths import RESOLVED
from heated.inference import embedder as embedders
from heated.inference.embedder import Embedder
from heated.search import approximate
from heated.search.images import Image, contents, listed
from heated.tracking import pyfunc_model

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
    empty = folder.is_dir() and not any(folder.iterdir())
    if folder.exists() and not empty and not (folder / RECORD).is_file():
        raise InputError(f"{folder} is there already, and no index; name another folder")
    images = listed(places)
    if len(images) >= MANY:
        approximate.faiss()  # or say that it is missing, before the images are embedded
    embedder = named(model)
    shape = (len(images), embedder.model.architecture.embedding_dim)
    with whole(folder) as temporary:
        temporary.mkdir()
        array = open_memmap(temporary / ARRAY, "w+", np.dtype(np.float32), shape)
        seen = tqdm(contents(images), "indexing", len(images), unit="image", disable=None)
        squares = (embedder.square(content, str(image)) for image, content in seen)
        for start in range(0, len(images), AT_ONCE):
            array[start : start + AT_ONCE] = embedder.embeddings(islice(squares, AT_ONCE))
        array.flush()
        if len(images) >= MANY:
            approximate.write(temporary / FAISS, array)
        path = Path(model)  # of a model that is a file or a folder: as it holds in any folder
        name = str(path.absolute()) if path.exists() else model
        record = {"model": name, "digest": embedder.digest, "images": images}
        write_json(temporary / RECORD, record)
    return len(images)


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


def named(name: str) -> Embedder:
    """A model of MLflow's by its address or folder, or one of the pipeline's by its file,
    runs/<dataset>/<method>/models/seed-<s>.safetensors; InputError where there is none."""
    path = Path(name)
    if re.match(r"[a-z][a-z-]+:/", name):
        return pyfunc_model.load_embedder(name)
    if (path / "MLmodel").is_file():
        return embedders.read(path / pyfunc_model.DATA_PATH)
    if path.suffix == ".safetensors" and path.is_file():
        return embedders.embedder(path, packing(path.resolve()))
    raise InputError(
        f"{name} is no model; allowed: an address of MLflow's, such as models:/name@alias or "
        "runs:/id/model, the folder of a model that it keeps, or the pipeline's own "
        "runs/<dataset>/<method>/models/seed-<s>.safetensors"
    )


def packing(weights: Path) -> dict[str, object]:
    """How the data set of a model file of the pipeline is packed; InputError where the resolved
    settings beside `runs` do not have the data set."""
    folders = weights.parents
    if len(folders) < 5 or (folders[0].name, folders[3].name) != ("models", "runs"):
        raise InputError(
            f"{weights} does not lie in runs/<dataset>/<method>/models, so that nothing tells how "
            "its images are packed; save it as a model of MLflow's, which knows"
        )
    dataset = folders[2].name
    settings = folders[4] / RESOLVED / "packing" / f"{dataset}.json"
    if not settings.is_file():
        raise InputError(
            f"{weights}: got the data set {dataset!r}, which {settings} does not describe. Name it "
            "in params.yaml or datasets.yaml and run `python -m stages.resolve`."
        )
    found: dict[str, object] = read_json(settings)["packing"]
    return found
