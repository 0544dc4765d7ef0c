"""How fast images are packed, beside one process that opens, resizes and stores them with Pillow.

Both read the same zip with a folder a class and write the same (N, size, size, 3) array: ours as
the stage does it, the other into a memory map. Each run has a process of its own, in turn; ours
tells its peak of memory. Besides the zip that is given there is one of synthetic photographs
(500 x 375, noise of all scales, JPEG of quality 90), few of which are distinct, so that making them
is cheap.

    python benchmarks/pack.py --images cub100-cropped.zip --json benchmarks/results/pack.json
"""

import argparse
import io
import json
import multiprocessing
import os
import resource
import statistics
import sys
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from PIL import Image

from heated.datasets.image_folder import samples_by_directory
from heated.datasets.splits import split
from heated.preprocessing.packing import pack
from heated.runtime.environment import collect_environment

DISTINCT, WIDTH, HEIGHT = 300, 500, 375  # synthetic photographs
FADING = 0.66  # amplitude of each octave of their noise, to that of the one below


def photograph(seed: int) -> bytes:
    """A JPEG with as much detail as a photograph has: some 55 kB."""
    random = np.random.default_rng(seed)
    pixels = np.full((HEIGHT, WIDTH, 3), 128.0)
    for octave, step in enumerate((128, 64, 32, 16, 8, 4, 2, 1)):
        shape = (HEIGHT // step + 2, WIDTH // step + 2, 1 if step < 4 else 3)
        noise = random.normal(scale=60 * FADING**octave, size=shape).astype(np.float32)
        pixels += enlarged(noise)
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def enlarged(noise: NDArray[np.float32]) -> NDArray[np.float32]:
    """(HEIGHT, WIDTH, channels) of coarser noise."""
    planes = [Image.fromarray(plane) for plane in np.moveaxis(noise, 2, 0)]
    return np.stack(
        [np.asarray(plane.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)) for plane in planes],
        axis=2,
    )


def photographs(path: Path, count: int) -> None:
    """A zip of `count` photographs in 100 classes, stored as they are."""
    distinct = [photograph(seed) for seed in range(min(DISTINCT, count))]
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(count):
            name = f"{number % 100:03}/{number:06}.jpg"
            archive.writestr(name, distinct[number % len(distinct)])


def ours(archive: Path, folder: Path, size: int, workers: int) -> dict[str, float]:
    """Seconds of packing, those of all processors, the peak of memory in MiB."""
    started, busy = time.perf_counter(), time.process_time()
    samples = samples_by_directory(archive, str)
    pack(
        samples,
        split(samples, "halves"),
        folder / "packed",
        size=size,
        fit="squash",
        colour="rgb",
        filter="bilinear",
        damaged=0,
        workers=workers,
    )
    seconds, busy = time.perf_counter() - started, time.process_time() - busy
    return {"seconds": seconds, "processor": busy, "peak": peak()}


def plain(archive: Path, folder: Path, size: int) -> dict[str, float]:
    """Seconds of Pillow in one process, and those of the processor."""
    started, busy = time.perf_counter(), time.process_time()
    with zipfile.ZipFile(archive) as file:
        names = [name for name in file.namelist() if name.endswith(".jpg")]
        shape = (len(names), size, size, 3)
        images = open_memmap(folder / "images.npy", "w+", np.dtype(np.uint8), shape)
        for number, name in enumerate(names):
            image = Image.open(io.BytesIO(file.read(name))).convert("RGB")
            images[number] = image.resize((size, size), Image.Resampling.BILINEAR)
        images.flush()
    return {"seconds": time.perf_counter() - started, "processor": time.process_time() - busy}


def peak() -> float:
    """The most memory that this process has held, in MiB."""
    status = Path("/proc/self/status")
    if status.exists():  # what getrusage tells may be the parent's
        lines = dict(line.split(":", 1) for line in status.read_text(encoding="utf-8").splitlines())
        return int(lines["VmHWM"].split()[0]) / 2**10
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held / (2**20 if sys.platform == "darwin" else 2**10)


def alone(function: Callable[..., dict[str, float]], *arguments: Any) -> dict[str, float]:
    """What a function tells that runs in a new process, in a folder of its own."""
    archive, *options = arguments
    fresh = multiprocessing.get_context("spawn")
    with TemporaryDirectory() as folder, ProcessPoolExecutor(1, mp_context=fresh) as pool:
        return pool.submit(function, archive, Path(folder), *options).result()


def bench(name: str, archive: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Images a second of ours and of Pillow, their ratios, also of the fastest runs and
    of what keeps the processors busy (which other work on the machine moves less), our peak of
    memory, and the load before."""
    runs: dict[str, list[dict[str, float]]] = {"ours": [], "pillow": []}
    load = os.getloadavg()[0]
    for _ in range(options.repeats):
        runs["ours"].append(alone(ours, archive, options.size, options.workers))
        runs["pillow"].append(alone(plain, archive, options.size))
    with zipfile.ZipFile(archive) as file:
        sizes = [info.file_size for info in file.infolist() if info.filename.endswith(".jpg")]
    seconds = {key: [run["seconds"] for run in each] for key, each in runs.items()}
    busy = {key: [run["processor"] for run in each] for key, each in runs.items()}
    figures = {
        "images": len(sizes),
        "bytes_an_image": statistics.mean(sizes),
        "images_a_second": len(sizes) / statistics.median(seconds["ours"]),
        "pillow_images_a_second": len(sizes) / statistics.median(seconds["pillow"]),
        "ratio_to_pillow": ratio(seconds["pillow"], seconds["ours"]),
        "ratio_of_fastest": min(seconds["pillow"]) / min(seconds["ours"]),
        "processor_ratio_to_pillow": ratio(busy["pillow"], busy["ours"]),
        "load_before": load,
        "peak_mib": max(run["peak"] for run in runs["ours"]),
    }
    print(name, *(f"{key} {value}" for key, value in figures.items()), sep="\n  ", flush=True)
    return {f"{name}_{key}": value for key, value in figures.items()}


def ratio(theirs: list[float], ours: list[float]) -> float:
    """The median of what each pair of runs takes, theirs to ours."""
    return statistics.median(a / b for a, b in zip(theirs, ours, strict=True))


def main() -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, required=True, help="a zip with a folder a class")
    parser.add_argument(
        "--count", type=int, default=20_000, help="synthetic (default: %(default)s)"
    )
    parser.add_argument("--size", type=int, default=256, help="pixels (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="of ours (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    figures: dict[str, Any] = {key: getattr(options, key) for key in ("size", "repeats", "workers")}
    with TemporaryDirectory() as temporary:
        photographs(Path(temporary) / "photographs.zip", options.count)
        figures |= bench("zip", options.images, options)
        figures |= bench("photographs", Path(temporary) / "photographs.zip", options)
    figures |= collect_environment(torch.device("cpu"))
    figures["pillow"] = version("pillow")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
