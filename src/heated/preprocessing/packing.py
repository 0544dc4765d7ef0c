"""Pack a data set into two files.

images.npy: (N, H, W, C) uint8, to be memory-mapped. index.npz: labels (N,) int64, class_names (C,)
str, the masks of the split (N,) bool, `tested`, and the names of `damaged` images.
"""

import shutil
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from heated.common.errors import InputError
from heated.common.io import atomic_write, write_arrays
from heated.common.progress import progress_bar
from heated.common.samples import Content, Samples, Split
from heated.datasets.file_names import describe_left_out
from heated.datasets.splits import REREAD_HINT, check_split
from heated.preprocessing.decoding import CHANNELS, DamagedImage, decode

Decoded = NDArray[np.uint8] | DamagedImage

MAX_NAMED = 20  # damaged images in a message


def pack(
    samples: Samples,
    split: Split,
    folder: Path,
    *,
    max_damaged_images: int,
    workers: int,
    **options: Any,
) -> None:
    """Decode all images in `workers` threads, with the `options` of `decode`; write `folder` whole.

    Up to `max_damaged_images` images may be damaged. They become zeros and are in no part of the
    split. Raises InputError if more are damaged, too few are left, or the disk is full.
    """
    size, count = options["size"], len(samples.labels)
    shape = (count, size, size, CHANNELS[options["color_mode"]])
    with atomic_write(folder) as temporary:
        temporary.mkdir()
        needed, free = int(np.prod(shape)), shutil.disk_usage(folder.parent).free
        if needed > free:
            raise InputError(
                f"{folder.parent}: got {free / 2**20:.0f} MiB of free space, expected "
                f"{needed / 2**20:.0f} MiB for {count} images. Free some, or lower packing.size."
            )
        images = decode_all(samples.contents(), partial(decode, **options), workers)
        errors = write_images(temporary / "images.npy", images, shape)
        report_damaged(errors, samples, max_damaged_images)
        kept = np.isin(np.arange(count), list(errors), invert=True)
        masks = {name: mask & kept for name, mask in split.masks().items()}
        check_split(samples, Split(**masks, tested=split.tested))
        write_arrays(
            temporary / "index.npz",
            labels=samples.labels,
            class_names=np.array(samples.class_names),
            tested=np.array(split.tested),
            damaged=np.array([samples.names[i] for i in sorted(errors)], dtype=np.str_),
            **masks,
        )
    text = f"{folder}: {count - len(errors)} images of {len(samples.class_names)} classes"
    print(text, *filter(None, [describe_left_out(samples.left_out)]), sep="; ", file=sys.stderr)


def write_images(
    path: Path, images: Iterator[tuple[int, Decoded]], shape: tuple[int, ...]
) -> dict[int, DamagedImage]:
    """Write (index, image) pairs to images.npy; return the errors of damaged images by index."""
    offset, errors = open_memmap(path, "w+", np.dtype(np.uint8), shape).offset, {}
    # The pages of a writable memory map would count as this process's own.
    with path.open("r+b") as file:
        for index, image in progress_bar(images, "packing", total=shape[0], unit="image"):
            if isinstance(image, DamagedImage):
                errors[index] = image
            else:
                file.seek(offset + index * image.nbytes)
                file.write(np.ascontiguousarray(image).data)
    return errors


def decode_all(
    contents: Iterator[tuple[int, Content]],
    decode_one: Callable[[Content], NDArray[np.uint8]],
    workers: int,
) -> Iterator[tuple[int, Decoded]]:
    """Decode files in threads and arrays in this one, with few in memory; yield (index, image)."""

    def attempt(content: Content) -> Decoded:
        try:
            return decode_one(content)
        except DamagedImage as error:
            return error

    waiting: deque[tuple[int, Future[Decoded]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for index, content in contents:
            if isinstance(content, np.ndarray):
                yield index, decode_one(content)
            else:
                waiting.append((index, pool.submit(attempt, content)))
            if len(waiting) > 2 * workers:
                first, image = waiting.popleft()
                yield first, image.result()
        for index, image in waiting:
            yield index, image.result()


def report_damaged(errors: Mapping[int, DamagedImage], samples: Samples, limit: int) -> None:
    """Print the damaged images to stderr; raise InputError if there are more than `limit`."""
    count = len(errors)
    lines = [f"  {samples.names[index]}: {errors[index]}" for index in sorted(errors)[:MAX_NAMED]]
    if count > MAX_NAMED:
        lines.append(f"  and {count - MAX_NAMED} more")
    if count > limit:
        raise InputError(
            f"packing.max_damaged_images: got {count} of {len(samples.labels)} images damaged, "
            f"expected at most {limit}. Fetch the archive again, or exclude them by "
            f"`packing.max_damaged_images: {count}`. {REREAD_HINT}\n" + "\n".join(lines)
        )
    if lines:
        print(f"{count} damaged images are excluded:", *lines, sep="\n", file=sys.stderr)
