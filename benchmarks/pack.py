"""Measure the speed of packing, compared with Pillow in one process.

Both read the same zip with one folder per class and write the same (N, size, size, 3) array. They
take turns, and each run has a new process. A second zip holds synthetic photographs: 500 x 375,
noise of all scales, JPEG of quality 90. Few of them are distinct, so that they are cheap to make.

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
DECAY = 0.66  # amplitude of each octave of their noise, relative to the octave below


def synthetic_photograph(seed: int) -> bytes:
    """Return a JPEG with the detail of a photograph, about 55 kB."""
    random = np.random.default_rng(seed)
    pixels = np.full((HEIGHT, WIDTH, 3), 128.0)
    for octave, step in enumerate((128, 64, 32, 16, 8, 4, 2, 1)):
        shape = (HEIGHT // step + 2, WIDTH // step + 2, 1 if step < 4 else 3)
        noise = random.normal(scale=60 * DECAY**octave, size=shape).astype(np.float32)
        pixels += upsample(noise)
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def upsample(noise: NDArray[np.float32]) -> NDArray[np.float32]:
    """Resize coarse noise to (HEIGHT, WIDTH, channels)."""
    planes = [Image.fromarray(plane) for plane in np.moveaxis(noise, 2, 0)]
    return np.stack(
        [np.asarray(plane.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)) for plane in planes],
        axis=2,
    )


def write_photographs(path: Path, count: int) -> None:
    """Write a zip of `count` uncompressed photographs in 100 classes."""
    distinct = [synthetic_photograph(seed) for seed in range(min(DISTINCT, count))]
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(count):
            name = f"{number % 100:03}/{number:06}.jpg"
            archive.writestr(name, distinct[number % len(distinct)])


def pack_here(archive: Path, folder: Path, size: int, workers: int) -> dict[str, float]:
    """Return the seconds of packing, the CPU seconds, and the peak memory in MiB."""
    started, busy = time.perf_counter(), time.process_time()
    samples = samples_by_directory(archive, str)
    pack(
        samples,
        split(samples, "halves"),
        folder / "packed",
        size=size,
        fit="squash",
        color_mode="rgb",
        filter="bilinear",
        max_damaged_images=0,
        workers=workers,
    )
    seconds, busy = time.perf_counter() - started, time.process_time() - busy
    return {"seconds": seconds, "processor": busy, "peak": peak_mib()}


def pack_with_pillow(archive: Path, folder: Path, size: int) -> dict[str, float]:
    """Return the seconds of Pillow in one process, and the CPU seconds."""
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


def peak_mib() -> float:
    """Return the peak memory of this process in MiB."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage may report the parent process
        lines = dict(line.split(":", 1) for line in status.read_text(encoding="utf-8").splitlines())
        return int(lines["VmHWM"].split()[0]) / 2**10
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held / (2**20 if sys.platform == "darwin" else 2**10)


def in_new_process(function: Callable[..., dict[str, float]], *arguments: Any) -> dict[str, float]:
    """Return a function's result from a new process with an empty folder."""
    archive, *options = arguments
    spawn = multiprocessing.get_context("spawn")
    with TemporaryDirectory() as folder, ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(function, archive, Path(folder), *options).result()


def bench_archive(name: str, archive: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Measure images per second, the ratios to Pillow, and the peak memory.

    The ratios of the fastest runs and of CPU seconds depend less on other work on the machine.
    """
    runs: dict[str, list[dict[str, float]]] = {"ours": [], "pillow": []}
    load = os.getloadavg()[0]
    for _ in range(options.repeats):
        runs["ours"].append(in_new_process(pack_here, archive, options.size, options.workers))
        runs["pillow"].append(in_new_process(pack_with_pillow, archive, options.size))
    with zipfile.ZipFile(archive) as file:
        sizes = [info.file_size for info in file.infolist() if info.filename.endswith(".jpg")]
    seconds = {key: [run["seconds"] for run in each] for key, each in runs.items()}
    busy = {key: [run["processor"] for run in each] for key, each in runs.items()}
    figures = {
        "images": len(sizes),
        "bytes_an_image": statistics.mean(sizes),
        "images_a_second": len(sizes) / statistics.median(seconds["ours"]),
        "pillow_images_a_second": len(sizes) / statistics.median(seconds["pillow"]),
        "ratio_to_pillow": median_ratio(seconds["pillow"], seconds["ours"]),
        "ratio_of_fastest": min(seconds["pillow"]) / min(seconds["ours"]),
        "processor_ratio_to_pillow": median_ratio(busy["pillow"], busy["ours"]),
        "load_before": load,
        "peak_mib": max(run["peak"] for run in runs["ours"]),
    }
    print(name, *(f"{key} {value}" for key, value in figures.items()), sep="\n  ", flush=True)
    return {f"{name}_{key}": value for key, value in figures.items()}


def median_ratio(theirs: list[float], ours: list[float]) -> float:
    """Return the median over pairs of runs of `theirs` divided by `ours`."""
    return statistics.median(a / b for a, b in zip(theirs, ours, strict=True))


def main() -> None:
    """Measure both archives, print the figures and write them as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--images", type=Path, required=True, help="a zip with one folder per class"
    )
    parser.add_argument(
        "--count", type=int, default=20_000, help="synthetic (default: %(default)s)"
    )
    parser.add_argument("--size", type=int, default=256, help="pixels (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument(
        "--workers", type=int, default=2, help="of this project (default: %(default)s)"
    )
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    figures: dict[str, Any] = {key: getattr(options, key) for key in ("size", "repeats", "workers")}
    with TemporaryDirectory() as temporary:
        write_photographs(Path(temporary) / "photographs.zip", options.count)
        figures |= bench_archive("zip", options.images, options)
        figures |= bench_archive("photographs", Path(temporary) / "photographs.zip", options)
    figures |= collect_environment(torch.device("cpu"))
    figures["pillow"] = version("pillow")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
