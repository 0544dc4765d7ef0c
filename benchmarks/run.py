"""Run the benchmarks on this machine and write one table of them.

Figures and the table are in benchmarks/results/<processor>/. Training uses noise, or the images of
a zip with one folder per class; packing is measured with such a zip only.

    python benchmarks/run.py
    python benchmarks/run.py --busy 2    # while two other processes compute; files busy-*
    python benchmarks/run.py --images cub100-cropped.zip
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from gpu_check import write_images

from heated.runtime.device import fast_dtype
from heated.runtime.environment import collect_environment

HERE = Path(__file__).parent
SIZES = {12_000: 2_260, 60_502: 11_316}  # embeddings: classes
LONG = ["--repeats=1", "--iterations=5"]  # where one repeat takes minutes
Row = tuple[str, float, float | None, float | None, float | None, float | None]


def commands(images: Path, threads: int, *, is_noise: bool) -> dict[str, list[str]]:
    """Return the arguments of each benchmark by the name of its file."""
    found = {
        f"evaluate-{n}": ["evaluate.py", f"--n={n}", f"--classes={classes}", f"--threads={threads}"]
        for n, classes in SIZES.items()
    }
    found[f"evaluate-{max(SIZES)}"] += LONG
    found["train"] = ["train.py", f"--images={images}", f"--threads={threads}"]
    if not is_noise:
        found["pack"] = ["pack.py", f"--images={images}"]
    return found


def make_row(
    what: str, ours: float, limit: float | None, peer: float | None, *ratios: float | None
) -> Row:
    """Return a row; ratios to limit and peer that were not measured in turn are of the medians."""
    to_limit, to_peer = ratios or (None, None)
    to_limit = to_limit or (ours / limit if limit else None)
    return what, ours, limit, peer, to_limit, to_peer or (ours / peer if peer else None)


def evaluate_rows(figures: dict[str, Any]) -> list[Row]:
    """Return seconds of retrieval and of k-means by `auto`'s engine, of the other libraries too."""
    size, limit = f"{figures['n']:,}", figures["limit_s"]
    peer = figures.get("accuracy_calculator_s")
    ratios = [figures.get(f"retrieval_ratio_to_{other}") for other in ("limit", "peer")]
    rows = [make_row(f"retrieval, {size}, easy (s)", figures["retrieval_s"], limit, peer, *ratios)]
    rows += [
        make_row(f"retrieval, {size}, {name} (s)", figures[f"retrieval_{name}_s"], limit, None)
        for name in ("hard", "collapsed")
    ]
    engines = {"lloyd": "kmeans_s", "scikit-learn": "sklearn_s", "faiss": "faiss_s"}
    seconds = {name: figures[key] for name, key in engines.items() if key in figures}
    name = figures["kmeans_auto"] if figures["kmeans_auto"] in seconds else "lloyd"
    ours, peer = seconds.pop(name), min(seconds.values(), default=None)
    converged, count = figures.get("kmeans_converged", True), figures["kmeans_iterations"]
    steps = "" if converged else f", {count} iterations"
    return [*rows, make_row(f"k-means by {name}, {size}{steps} (s)", ours, None, peer)]


def train_rows(figures: dict[str, Any]) -> list[Row]:
    """Return images per second of each network."""
    end = "_limit_images_a_second"
    names = [name.removesuffix(end) for name in figures if name.endswith(end)]
    keys = [f"{kind}_images_a_second" for kind in ("", "_limit", "_otherwise")]
    keys += ["_ratio_to_limit", "_ratio_to_peer"]
    return [
        make_row(f"train {name} (images/s)", *(figures.get(f"{name}{key}") for key in keys))
        for name in names
    ]


def describe(folder: Path, title: str, prefix: str) -> str:
    """Return the figures in a folder as Markdown: a table, loads before, and notes."""
    heads = ("benchmark", "ours", "limit", "peer", "ours / limit", "ours / peer")
    lines, loads, notes = [heads, ("---",) * len(heads)], [], []
    names = [*(f"evaluate-{n}" for n in SIZES), "train"]
    for name in names:
        path = folder / f"{prefix}{name}.json"
        if not path.exists():
            continue
        figures = json.loads(path.read_text(encoding="utf-8"))
        rows = train_rows(figures) if name == "train" else evaluate_rows(figures)
        for what, *values in rows:
            lines.append((what, *("" if value is None else f"{value:.3g}" for value in values)))
        loads += [f"{name} {figures['load_before']:.1f}"] if "load_before" in figures else []
        notes += [f"\n{path.name}: {figures['note']}."] if "note" in figures else []
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    load = f"Load average of the minute before: {', '.join(loads)}." if loads else ""
    ratios = "Ratios are medians over the repeats, measured in turn, where the JSON has them."
    return "\n".join([f"# {title}\n", table, " ".join([ratios, load]).strip(), *notes, ""])


def main() -> None:
    """Run each benchmark in a process of its own; fail at the end if one did."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, help="zip for training and packing")
    parser.add_argument("--threads", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("--busy", type=int, default=0, help="other processes that compute")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = f"{collect_environment(device)['device']} {torch.backends.cpu.get_cpu_capability()}"
    screen = str(fast_dtype(device)).removeprefix("torch.")
    folder = HERE / "results" / re.sub(r"\W+", "-", f"{name} {screen}".lower())
    folder.mkdir(parents=True, exist_ok=True)
    title, prefix, codes = name, "", []
    if options.busy:
        title, prefix = f"{name}, {options.busy} other processes compute", "busy-"
    with TemporaryDirectory() as temporary, busy_processes(options.busy):
        images = options.images or Path(temporary) / "noise.zip"
        if not options.images:
            write_images(images)
        parts = commands(images, options.threads, is_noise=not options.images)
        for file, (script, *rest) in parts.items():
            path = folder / f"{prefix}{file}.json"
            command = [sys.executable, str(HERE / script), *rest, "--json", str(path)]
            codes.append(subprocess.run(command, check=False).returncode)
    text = describe(folder, title, prefix)
    (folder / f"{prefix}table.md").write_text(text, encoding="utf-8")
    print(text)
    sys.exit(max(codes))


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Let processes compute in the meantime."""
    command = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(command) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()
