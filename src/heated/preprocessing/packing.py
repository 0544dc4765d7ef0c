"""A data set packed into two files: images.npy, uint8 (N, H, W, C), to be memory-mapped, and
index.npz (labels (N,) int64, class_names (C,) str, the masks of the split, (N,) bool, what is
`tested`, and the names of images left out as `damaged`).
"""

import shutil
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from tqdm import tqdm

from heated.common.errors import InputError
from heated.common.io import whole, write_arrays
from heated.common.samples import Content, Samples, Split
from heated.datasets.splits import AGAIN, check
from heated.preprocessing.decoding import CHANNELS, DamagedImage, decode

Decoded = NDArray[np.uint8] | DamagedImage

TOLD = 20  # damaged images that are named
MIB = 2**20


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
) -> None:
    """Write `folder` with every image as `decode` makes it, whole or not at all.

    At most `damaged` images may be damaged: they are zeros and in no part of the split.

    Args:
        workers: Threads that decode.

    Raises:
        InputError: If more images are damaged, with their names, or the disk has no room.
    """
    square = partial(decode, size=size, fit=fit, colour=colour, filter=filter)
    shape = (len(samples.labels), size, size, CHANNELS[colour])
    with whole(folder) as temporary:
        temporary.mkdir()
        check_room(folder, shape)
        try:
            bad = write_images(temporary / "images.npy", samples, shape, square, workers)
            left_out = allowed(bad, samples, damaged)
            write_index(temporary / "index.npz", samples, split, left_out)
        except OSError as error:
            raise OSError(f"{folder} cannot be made: {error}") from error


def check_room(folder: Path, shape: tuple[int, ...]) -> None:
    """InputError unless the images fit into the folder's file system."""
    needed, free = int(np.prod(shape)), shutil.disk_usage(folder.parent).free
    if needed > free:
        raise InputError(
            f"{folder.parent}: {needed / MIB:.0f} MiB are needed for {shape[0]} images and "
            f"{free / MIB:.0f} MiB are free; make room, or lower packing.size"
        )


def write_images(
    path: Path,
    samples: Samples,
    shape: tuple[int, ...],
    square: Callable[[Content], NDArray[np.uint8]],
    workers: int,
) -> dict[int, DamagedImage]:
    """Write every image to its place in images.npy; return the damaged ones by number."""
    offset, damaged = open_memmap(path, "w+", np.dtype(np.uint8), shape).offset, {}
    results = decoded(samples.contents(), square, workers)
    # The pages of a writable memory map would count as this process's own.
    with path.open("r+b") as file:
        for number, image in tqdm(results, "packing", shape[0], unit="image", disable=None):
            if isinstance(image, DamagedImage):
                damaged[number] = image
            else:
                file.seek(offset + number * image.nbytes)
                file.write(np.ascontiguousarray(image).data)
    return damaged


def decoded(
    contents: Iterator[tuple[int, Content]],
    square: Callable[[Content], NDArray[np.uint8]],
    workers: int,
) -> Iterator[tuple[int, Decoded]]:
    """Yield each content decoded; few are in memory at a time. Only files are worth a thread."""

    def attempt(content: Content) -> Decoded:
        try:
            return square(content)
        except DamagedImage as error:
            return error

    waiting: deque[tuple[int, Future[Decoded]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for number, content in contents:
            if isinstance(content, np.ndarray):
                yield number, square(content)
            else:
                waiting.append((number, pool.submit(attempt, content)))
            if len(waiting) > 2 * workers:
                first, image = waiting.popleft()
                yield first, image.result()
        for number, image in waiting:
            yield number, image.result()


def allowed(damaged: Mapping[int, DamagedImage], samples: Samples, most: int) -> list[int]:
    """Return the damaged images, printed to stderr; InputError for more than `most`."""
    numbers = sorted(damaged)
    told = [f"  {samples.names[number]}: {damaged[number]}" for number in numbers[:TOLD]]
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
    return numbers


def write_index(path: Path, samples: Samples, split: Split, left_out: list[int]) -> None:
    """Write index.npz, with the images left out in no part of the split; InputError where a side
    has too few then."""
    kept = np.isin(np.arange(len(samples.labels)), left_out, invert=True)
    masks = {name: mask & kept for name, mask in split.masks().items()}
    check(samples, Split(**masks, tested=split.tested))
    write_arrays(
        path,
        labels=samples.labels,
        class_names=np.array(samples.class_names),
        tested=np.array(split.tested),
        damaged=np.array([samples.names[number] for number in left_out], dtype=np.str_),
        **masks,
    )
