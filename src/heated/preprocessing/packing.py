"""A data set packed into two files: images.npy, uint8 (N, H, W, C), to be memory-mapped, and
index.npz (labels (N,) int64, class_names (C,) str, the masks of the split, (N,) bool, what is
`tested`, and the names of images left out as `damaged`).

What is packed so far lies in `.<folder>.partial` beside the folder, which DVC does not remove
before it runs a stage again; the next call goes on there.
"""

import hashlib
import json
import shutil
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from tqdm import tqdm

from heated.common.errors import InputError
from heated.common.io import read_json, sha256, whole, write_arrays, write_json
from heated.common.samples import Content, Samples, Split
from heated.datasets.splits import AGAIN, check
from heated.preprocessing import decoding
from heated.preprocessing.decoding import CHANNELS, DamagedImage, decode, one_thread

Piece = list[tuple[int, Content]]
Told = tuple[int, str]  # an image's number, and how it is damaged, or nothing

PIECE = 8  # images at most that a thread decodes at a time
FULL = 2**23  # bytes of their files, with which a piece of fewer images ends
KEPT_EVERY = 1000  # images, after which a killed call is taken up at most so many back
TOLD = 20  # damaged images that are named
MIB = 2**20


@dataclass
class Progress:
    """How many contents are done, in the order they are read, which numbers were damaged and how,
    and the fingerprint of what decides the bytes."""

    fingerprint: str
    done: int = 0
    damaged: dict[str, str] = field(default_factory=dict)


def pack(
    samples: Samples,
    split: Split,
    folder: Path,
    *,
    size: int,
    fit: str,
    colour: str,
    filter: str,
    damaged: int,
    workers: int,
    source: Path,
) -> None:
    """`folder` with every image as `decode` makes it, written whole or not at all; a call that was
    killed is taken up where it was, with the same options and the same files under `source`.

    At most so many images may be `damaged`: they are zeros and in no part of the split. InputError
    that names them when there are more. workers: threads that decode.
    """
    square = partial(decode, size=size, fit=fit, colour=colour, filter=filter)
    shape = (len(samples.labels), size, size, CHANNELS[colour])
    work = folder.with_name(f".{folder.name}.partial")
    with alone(work, folder), resumable(work, folder):
        progress = begun(work, shape, fingerprint(samples, source, square.keywords))
        if progress.done < len(samples.labels):
            with one_thread() if colour == "rgb" else nullcontext():
                fill(work, samples, progress, square, workers)
        left_out = allowed(progress.damaged, samples, damaged)
        write_index(work / "index.npz", samples, split, left_out)
        with whole(folder) as temporary:
            temporary.mkdir()
            for name in ("index.npz", "images.npy"):
                (work / name).replace(temporary / name)
        shutil.rmtree(work, ignore_errors=True)  # not the lock, where an open file stays


@contextmanager
def alone(work: Path, folder: Path) -> Iterator[None]:
    """The folder of work in progress, this process's own; InputError while another has it."""
    work.mkdir(parents=True, exist_ok=True)
    lock = FileLock(work / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(
            f"another process packs {folder}; wait until it has ended, then start this again"
        ) from None
    try:
        yield
    finally:
        lock.release(force=True)


@contextmanager
def resumable(work: Path, folder: Path) -> Iterator[None]:
    """What the system refuses is told with the folder, and with what stays of it."""
    try:
        yield
    except OSError as error:
        raise OSError(
            f"{folder} cannot be made: {error}.\n"
            f"What is packed so far stays in {work}; the next run goes on with it."
        ) from error


def fingerprint(samples: Samples, source: Path, options: Mapping[str, Any]) -> str:
    """64 hexadecimal digits of all that decides the bytes: options, names, labels, the files under
    `source` by size and time, the code that decodes."""
    files = sorted(path for path in source.rglob("*") if path.is_file())
    stats = [(path.relative_to(source).as_posix(), path.stat()) for path in files]
    found = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    code = sha256(Path(decoding.__file__)), version("pillow"), version("torchvision")
    made_by = [dict(options), list(samples.names), samples.labels.tolist(), found, code]
    return hashlib.sha256(json.dumps(made_by).encode()).hexdigest()


def begun(work: Path, shape: tuple[int, ...], made_by: str) -> Progress:
    """What an earlier call left of the same work, or a beginning: zeros, as the disk has room."""
    images, kept = work / "images.npy", work / "progress.json"
    if images.exists() and kept.exists():
        former = read_json(kept)
        if former["fingerprint"] == made_by:
            return Progress(**former)
    kept.unlink(missing_ok=True)
    images.unlink(missing_ok=True)
    needed, free = int(np.prod(shape)), shutil.disk_usage(work).free
    if needed > free:
        raise InputError(
            f"{work.parent}: {needed / MIB:.0f} MiB are needed for {shape[0]} images and "
            f"{free / MIB:.0f} MiB are free; make room, or lower packing.size"
        )
    open_memmap(images, "w+", np.dtype(np.uint8), shape)
    return Progress(made_by)


def fill(
    work: Path,
    samples: Samples,
    progress: Progress,
    decode: Callable[[Content], NDArray[np.uint8]],
    workers: int,
) -> None:
    """The images that are not yet in images.npy, each at its place, and progress.json with it."""
    path, total = work / "images.npy", len(samples.labels)
    store = partial(stored, path, np.load(path, mmap_mode="r").offset, decode)
    with closing(done(samples.contents(progress.done), store, workers)) as told:
        bar = tqdm(told, "packing", total, initial=progress.done, unit="image", disable=None)
        for number, damage in bar:
            if damage:
                progress.damaged[str(number)] = damage
            progress.done += 1
            if progress.done % KEPT_EVERY == 0 or progress.done == total:
                write_json(work / "progress.json", asdict(progress))
    assert progress.done == total


def done(
    contents: Iterator[tuple[int, Content]], store: Callable[[Piece], list[Told]], workers: int
) -> Generator[Told, None, None]:
    """What `store` tells of each content, in their order; few are in memory at a time."""
    waiting: deque[Future[list[Told]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for piece in pieces(contents):
            waiting.append(pool.submit(store, piece))
            if len(waiting) > 2 * workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def pieces(contents: Iterable[tuple[int, Content]]) -> Iterator[Piece]:
    """All the contents in their order, PIECE at a time; a piece ends, too, once it has FULL bytes,
    so that few large images wait in memory."""
    piece: Piece = []
    size = 0
    for number, content in contents:
        piece.append((number, content))
        size += content.nbytes if isinstance(content, np.ndarray) else len(content)
        if len(piece) == PIECE or size >= FULL:
            yield piece
            piece, size = [], 0
    if piece:
        yield piece


def stored(
    path: Path, offset: int, decode: Callable[[Content], NDArray[np.uint8]], piece: Piece
) -> list[Told]:
    """Of each content its number and, where it is damaged, how; the others' images are then in the
    file. The pages of a writable memory map would count as this process's own."""
    told: list[Told] = []
    with path.open("r+b") as file:
        for number, content in piece:
            try:
                image = np.ascontiguousarray(decode(content))
            except DamagedImage as error:
                told.append((number, str(error)))
                continue
            file.seek(offset + number * image.nbytes)
            file.write(image.data)
            told.append((number, ""))
    return told


def allowed(damaged: Mapping[str, str], samples: Samples, most: int) -> NDArray[np.int64]:
    """Numbers of the damaged images, rising, told on stderr; InputError for more than `most`."""
    numbers = sorted(map(int, damaged))
    told = [f"  {samples.names[number]}: {damaged[str(number)]}" for number in numbers[:TOLD]]
    if len(numbers) > TOLD:
        told.append(f"  and {len(numbers) - TOLD} more")
    if len(numbers) > most:
        raise InputError(
            f"{len(numbers)} of {len(samples.labels)} images are damaged; allowed: {most}. Fetch "
            f"the archive again, or leave them out by `packing.damaged: {len(numbers)}`. {AGAIN}\n"
            + "\n".join(told)
        )
    if told:
        print(f"{len(numbers)} damaged images are left out:", *told, sep="\n", file=sys.stderr)
    return np.array(numbers, dtype=np.int64)


def write_index(path: Path, samples: Samples, split: Split, left_out: NDArray[np.int64]) -> None:
    """index.npz, with the images left out in no part of the split; InputError where a side has
    too few then."""
    whole = np.isin(np.arange(len(samples.labels)), left_out, invert=True)
    masks = {name: mask & whole for name, mask in split.masks().items()}
    kept = Split(**masks, tested=split.tested)
    check(samples, kept)
    write_arrays(
        path,
        labels=samples.labels,
        class_names=np.array(samples.class_names),
        tested=np.array(kept.tested),
        damaged=np.array([samples.names[number] for number in left_out], dtype=np.str_),
        **masks,
    )
