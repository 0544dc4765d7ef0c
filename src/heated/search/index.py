"""An index of images: a folder with their embeddings, and with `index.faiss` if there are many."""

import math
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from heated.common import archives
from heated.common.errors import InputError
from heated.common.io import RESOLVED, atomic_write, read_json, read_record, wrap_damage, write_json
from heated.common.progress import progress_bar
from heated.datasets.file_names import SUFFIXES, check_utf8, describe_left_out, is_image, list_files
from heated.inference.embedder import Embedder, load_embedder, make_embedder
from heated.tracking import pyfunc_model

ARRAY = "embeddings.npy"  # (N, D) float32 of unit length
RECORD, FAISS = "index.json", "index.faiss"  # the record has images and model
MANY = 1_000_000  # images from which on faiss searches, approximately
BATCH = 256  # images that are decoded before they are embedded together
ROWS = 2**16  # of embeddings that are compared, or added to faiss, at once
SAMPLES_PER_CELL = 64  # from which faiss learns its cells
CELLS_PER_PROBE = 16  # a query searches one cell in 16
Vectors = NDArray[np.float32]
Neighbors = tuple[Vectors, NDArray[np.int64]]  # (Q, K) distances, (Q, K) numbers


class Image(NamedTuple):
    """The absolute path of an image file, or of an archive and its member."""

    path: str
    member: str | None = None

    def __str__(self) -> str:
        return self.path if self.member is None else f"{self.path}/{self.member}"


@dataclass(frozen=True)
class Index:
    """An open index; `embeddings` is a read-only memory map."""

    folder: Path
    embeddings: Vectors
    images: list[Image]
    model: str
    digest: str


def list_images(paths: Sequence[Path]) -> list[Image]:
    """List the images at the paths, each once: a folder's by name, an archive's as stored.

    Counts other files on stderr. Raises InputError if a path has no images, or a name is not UTF-8.
    """
    images: list[Image] = []
    for path in map(Path.absolute, paths):
        left_out: list[str] = []
        if path.is_dir():
            files, others = list_files(path)
            found = [Image(str(file)) for file in files if is_image(PurePosixPath(file.name))]
            others += [file for file in files if str(file) not in {image.path for image in found}]
            left_out = [file.relative_to(path).as_posix() for file in others]
        elif path.is_file() and path.suffix.lower() in SUFFIXES:
            found = [Image(str(path))]
        elif path.is_file() and archives.is_archive(path):
            names = archives.member_names(path)
            found = [Image(str(path), name) for name in names if is_image(PurePosixPath(name))]
            left_out = [name for name in names if not is_image(PurePosixPath(name))]
        else:
            problem = "is not an image, zip or tar" if path.exists() else "does not exist"
            raise InputError(f"{path} {problem}, expected image files, folders or archives of them")
        if not found:
            raise InputError(f"{path} has no images, expected files that end in {SUFFIXES}")
        if left_out:
            print(f"{path}: {describe_left_out(left_out)}", file=sys.stderr)
        images += found
    check_utf8(map(str, images))
    return list(dict.fromkeys(images))


def read_images(images: Sequence[Image]) -> Iterator[tuple[Image, bytes]]:
    """Yield images and the bytes of their files, given an archive's members as it stores them."""
    for archive, group in groupby(images, key=lambda image: image.member and image.path):
        if archive is None:
            yield from ((image, Path(image.path).read_bytes()) for image in group)
        else:
            members = [str(image.member) for image in group]
            for name, content in archives.read_members(Path(archive), members):
                yield Image(archive, name), content


def build_index(paths: Sequence[Path], model: str, folder: Path) -> int:
    """Index the images at the paths and return their number; replaces an index in the folder.

    Raises InputError if an image is damaged, or the folder holds anything else.
    """
    check_replaceable(folder)
    images = list_images(paths)
    if len(images) >= MANY:
        import_faiss()  # fails before the images are embedded
    embedder = find_model(model)
    shape = (len(images), embedder.model.architecture.embedding_dim)
    with atomic_write(folder) as temporary:
        temporary.mkdir()
        progress = progress_bar(read_images(images), "indexing", total=len(images), unit="image")
        packed = (embedder.pack(content, str(image)) for image, content in progress)
        with (temporary / ARRAY).open("wb") as file:  # a map on a full disk would end the process
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for _ in range(0, len(images), BATCH):
                file.write(embedder.embed_packed(islice(packed, BATCH)).tobytes())
        if len(images) >= MANY:
            write_faiss(temporary / FAISS, np.load(temporary / ARRAY, mmap_mode="r"))
        name = str(Path(model).absolute()) if Path(model).exists() else model
        content = {"model": name, "digest": embedder.digest, "images": images}
        write_json(temporary / RECORD, content)
        check_replaceable(folder)
    return len(images)


def check_replaceable(folder: Path) -> None:
    """Raise InputError if a folder holds anything but an index; an empty one may be replaced."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else {folder.name}
    is_index = RECORD in names and names <= {ARRAY, RECORD, FAISS}
    if is_index:
        record: dict[str, Any] = {}
        with suppress(InputError):  # damaged, or another program's
            record = read_json(folder / RECORD)
        is_index = record.keys() == {"model", "digest", "images"}
    if folder.is_symlink() or (folder.exists() and names and not is_index):
        some = ", ".join(sorted(names)[:3])
        raise InputError(
            f"{folder} exists and is not an index alone: it holds {some}. Name another folder."
        )


def write_faiss(path: Path, embeddings: Vectors) -> None:
    """Write a faiss index of unit vectors (N, D), in 4 sqrt(N) cells."""
    faiss, (count, dim) = import_faiss(), embeddings.shape
    cells = max(1, min(round(4 * math.sqrt(count)), count // SAMPLES_PER_CELL))
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, cells, faiss.METRIC_INNER_PRODUCT)
    size = min(count, SAMPLES_PER_CELL * cells)
    sample = np.random.default_rng(0).choice(count, size, replace=False)
    index.train(np.ascontiguousarray(embeddings[np.sort(sample)]))
    for start in range(0, count, ROWS):
        index.add(np.ascontiguousarray(embeddings[start : start + ROWS]))
    faiss.write_index(index, str(path))


def import_faiss() -> Any:
    """Import faiss, which is optional."""
    try:
        import faiss
    except ImportError as error:
        problem = f"{MANY} or more images are searched by faiss, which is not installed."
        raise InputError(f"{problem} Run `pip install faiss-cpu`.") from error
    return faiss


def open_index(folder: Path) -> Index:
    """Open the index in a folder. Raises InputError if there is none, or it is damaged."""
    if not (folder / RECORD).is_file() or not (folder / ARRAY).is_file():
        raise InputError(f"{folder} is not an index. Make one by `python -m heated.search index`.")
    with wrap_damage(folder, "Index the images again."):
        record, embeddings = read_json(folder / RECORD), np.load(folder / ARRAY, mmap_mode="r")
        images = [Image(*image) for image in record["images"]]
        index = Index(folder, embeddings, images, record["model"], record["digest"])
        if embeddings.ndim != 2 or len(embeddings) != len(images):
            raise ValueError(f"embeddings of shape {embeddings.shape} for {len(images)} images")
        if embeddings.dtype != np.float32 or not all(isinstance(i.path, str) for i in images):
            raise ValueError(f"embeddings of {embeddings.dtype}, or paths of another type")
    return index


def search(index: Index, queries: Vectors, *, top: int) -> Neighbors:
    """Find cosine distances, ascending, and numbers of the images nearest to queries (Q, D)."""
    top = min(top, len(index.images))
    if (index.folder / FAISS).is_file():
        cosines, numbers = search_faiss(index.folder / FAISS, queries, top=top)
    else:
        cosines, numbers = search_exact(index.embeddings, queries, top=top)
    return (1 - cosines).clip(0, 2), numbers


def search_exact(embeddings: Vectors, queries: Vectors, *, top: int) -> Neighbors:
    """Return cosines, descending, and numbers of the nearest; ties by ascending number."""
    cosines, numbers = (np.empty((len(queries), 0), dtype) for dtype in (np.float32, np.int64))
    for start in range(0, len(embeddings), ROWS):
        block = queries @ embeddings[start : start + ROWS].T
        rows = np.broadcast_to(np.arange(start, start + block.shape[1]), block.shape)
        cosines, numbers = np.hstack([cosines, block]), np.hstack([numbers, rows])
        order = np.argsort(-cosines, axis=1, kind="stable")[:, :top]
        cosines = np.take_along_axis(cosines, order, axis=1)
        numbers = np.take_along_axis(numbers, order, axis=1)
    return cosines, numbers


def search_faiss(path: Path, queries: Vectors, *, top: int) -> Neighbors:
    """Return cosines, descending, and numbers of the nearest in the cells that are searched."""
    faiss = import_faiss()
    queries = np.ascontiguousarray(queries)  # faiss rejects rows of a memory map
    with wrap_damage(path, "Index the images again."):
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP)
    index.nprobe = math.ceil(index.nlist / CELLS_PER_PROBE)
    cosines, numbers = index.search(queries, top)
    while (numbers < 0).any() and index.nprobe < index.nlist:  # the cells have fewer than `top`
        index.nprobe = min(2 * index.nprobe, index.nlist)
        cosines, numbers = index.search(queries, top)
    return cosines, numbers


def load_index_model(index: Index, model: str | None = None) -> Embedder:
    """Load the index's model, or the equal one of another name."""
    embedder = find_model(model or index.model)
    if embedder.digest != index.digest:
        problem = f"{model or index.model} is not the model that {index.folder} was made with."
        advice = "Index the images again, or name the index's model with --model."
        raise InputError(f"{problem} {advice}")
    if (dim := embedder.model.architecture.embedding_dim) != index.embeddings.shape[1]:
        got = f"got embeddings of {index.embeddings.shape[1]} dimensions, expected {dim}"
        raise InputError(f"{index.folder}: {got}. Index the images again.")
    return embedder


def find_model(name: str) -> Embedder:
    """Load a model by its MLflow URI, MLflow folder, or file in runs/."""
    path = Path(name)
    if re.match(r"[a-z][a-z-]+:/", name):
        return pyfunc_model.load_from_mlflow(name)
    if (path / "MLmodel").is_file():
        return load_embedder(path / pyfunc_model.DATA_PATH)
    if path.suffix != ".safetensors" or not path.is_file():
        raise InputError(
            f"model: got {name}, expected an MLflow URI such as models:/name@alias or "
            "runs:/id/model, the folder of an MLflow model, or "
            "runs/<dataset>/<method>/models/seed-<s>.safetensors"
        )
    folders = path.resolve().parents
    if len(folders) < 5 or (folders[0].name, folders[3].name) != ("models", "runs"):
        advice = "Use a model saved in MLflow, which includes it."
        problem = f"so the packing of its images is unknown. {advice}"
        raise InputError(f"{path} is not in runs/<dataset>/<method>/models, {problem}")
    dataset = folders[2].name
    settings = folders[4] / RESOLVED / "packing" / f"{dataset}.json"
    if not settings.is_file():
        problem = f"got the data set {dataset!r}, which {settings} does not describe."
        advice = "Name it in params.yaml or datasets.yaml and run `python -m stages.resolve`."
        raise InputError(f"{path}: {problem} {advice}")
    return make_embedder(path, read_record(settings)["packing"])
