"""Run the benchmarks on this machine and write one table of them.

Figures and the table are in benchmarks/results/<processor>/. Training and packing are measured if a
zip of images with one folder per class is given.

    python benchmarks/run.py
    python benchmarks/run.py --images cub100-cropped.zip
"""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from heated.runtime.device import fast_dtype
from heated.runtime.environment import collect_environment

HERE = Path(__file__).parent
SIZES = {12_000: 2_260, 60_502: 11_316}  # embeddings: classes
LONG = ["--repeats=1", "--iterations=5"]  # where one repeat takes minutes
Row = tuple[str, float, float | None, float | None]  # what, ours, limit, peer


def commands(images: Path | None, threads: int) -> dict[str, list[str]]:
    """Return the arguments of each benchmark by the name of its file."""
    found = {
        f"evaluate-{n}": ["evaluate.py", f"--n={n}", f"--classes={classes}", f"--threads={threads}"]
        for n, classes in SIZES.items()
    }
    found[f"evaluate-{max(SIZES)}"] += LONG
    if images:
        found["train"] = ["train.py", f"--images={images}", f"--threads={threads}"]
        found["pack"] = ["pack.py", f"--images={images}"]
    return found


def evaluate_rows(figures: dict[str, Any]) -> list[Row]:
    """Return seconds of retrieval and of k-means by `auto`'s engine, of the other libraries too."""
    size, limit = f"{figures['n']:,}", figures["limit_s"]
    peer = figures.get("accuracy_calculator_s")
    rows: list[Row] = [(f"retrieval, {size}, easy (s)", figures["retrieval_s"], limit, peer)]
    rows += [
        (f"retrieval, {size}, {name} (s)", figures[f"retrieval_{name}_s"], limit, None)
        for name in ("hard", "collapsed")
    ]
    engines = {"lloyd": "kmeans_s", "scikit-learn": "sklearn_s", "faiss": "faiss_s"}
    seconds = {name: figures[key] for name, key in engines.items() if key in figures}
    name = figures["kmeans_auto"] if figures["kmeans_auto"] in seconds else "lloyd"
    ours, peer = seconds.pop(name), min(seconds.values(), default=None)
    return [*rows, (f"k-means by {name}, {size} (s)", ours, None, peer)]


def train_rows(figures: dict[str, Any]) -> list[Row]:
    """Return images per second of each network."""
    end = "_limit_images_a_second"
    names = [name.removesuffix(end) for name in figures if name.endswith(end)]
    kinds = ("", "_limit", "_otherwise")
    rows = [[figures.get(f"{name}{kind}_images_a_second") for kind in kinds] for name in names]
    return [(f"train {name} (images/s)", *row) for name, row in zip(names, rows, strict=True)]


def table(rows: list[Row]) -> str:
    """Return a Markdown table."""
    heads = ("benchmark", "ours", "limit", "peer", "ours / limit", "ours / peer")
    lines = [heads, ("---",) * len(heads)]
    for name, ours, *others in rows:
        cells = [ours, *others, *(other and ours / other for other in others)]
        lines.append((name, *(f"{cell:.3g}" if cell else "" for cell in cells)))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> None:
    """Run each benchmark in a process of its own; fail at the end if one did."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, help="zip for training and packing")
    parser.add_argument("--threads", type=int, default=2, help="(default: %(default)s)")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = f"{collect_environment(device)['device']} {torch.backends.cpu.get_cpu_capability()}"
    screen = str(fast_dtype(device)).removeprefix("torch.")
    folder = HERE / "results" / re.sub(r"\W+", "-", f"{name} {screen}".lower())
    folder.mkdir(parents=True, exist_ok=True)
    codes, rows = [], []
    for file, arguments in commands(options.images, options.threads).items():
        script, *rest = arguments
        path = folder / f"{file}.json"
        command = [sys.executable, str(HERE / script), *rest, "--json", str(path)]
        codes.append(subprocess.run(command, check=False).returncode)
        figures = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if figures and script in ROWS:
            rows += ROWS[script](figures)
    text = f"# {name}\n\n{table(rows)}"
    (folder / "table.md").write_text(text, encoding="utf-8")
    print(text)
    sys.exit(max(codes))


ROWS = {"evaluate.py": evaluate_rows, "train.py": train_rows}

if __name__ == "__main__":
    main()
