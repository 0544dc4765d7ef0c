"""Check a GPU in about five minutes: the tests marked gpu, and four benchmarks with their limits.

It needs the packages of the stages, but not those of DVC, MLflow and params.yaml. Without a GPU it
only says what it would run.

    python benchmarks/gpu_check.py   # or: make gpu-check
"""

import io
import json
import os
import re
import subprocess
import sys
import time
import zipfile
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))  # where heated is not installed

from heated.runtime.device import setup_device  # noqa: E402
from heated.runtime.environment import collect_environment  # noqa: E402

SOP = "--n 60502 --dim 512 --classes 11316 --memory 4096 --no-peers --repeats 3 --parts"
TARGETS = {  # figure of a benchmark: the least or most that it should be
    ("training", "googlenet_ratio_to_limit"): (">=", 0.9),
    ("training", "googlenet_ratio_to_peer"): (">=", 5.0),
    ("training_auto", "googlenet_ratio_to_limit"): (">=", 0.9),
    ("training_auto", "googlenet_ratio_to_peer"): (">=", 5.0),
    ("retrieval", "retrieval_s"): ("<=", 10.0),
    ("retrieval", "retrieval_ratio_to_limit"): ("", 0.0),
    ("kmeans", "kmeans_s"): ("", 0.0),
    ("kmeans", "kmeans_ratio_to_limit"): ("", 0.0),
}


def gpu_test_files() -> list[str]:
    """List the test files with a test that needs a GPU."""
    paths = sorted((ROOT / "tests").rglob("test_*.py"))
    marked = [path for path in paths if "pytest.mark.gpu" in path.read_text(encoding="utf-8")]
    return [path.relative_to(ROOT).as_posix() for path in marked]


def commands(folder: Path) -> dict[str, list[str]]:
    """Return the command of each part; results are written to `folder`."""
    tests = ["-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    tests += ["--noconftest"]  # it needs dvc's packages
    tests += ["-p", "no:benchmark"]  # a plugin that warns if xdist runs
    tests += ["--numprocesses", "6"] if find_spec("xdist") else []
    tests += [f"--junitxml={folder / 'tests.xml'}", *gpu_test_files()]
    training = ["benchmarks/train.py", "--images", str(folder / "images.zip"), "--networks"]
    training += ["googlenet", "--count", "512"]
    training += [] if find_spec("pytorch_metric_learning") else ["--no-peers"]
    many = str(max(2, (os.cpu_count() or 2) - 2))
    parts = {  # the other loop is in float32 in both
        "training": [*training, "--precision", "float32", "--workers", many],
        "training_auto": [*training, "--precision", "auto", "--workers", "2"],
    }
    for part in ("retrieval", "kmeans"):
        parts[part] = ["benchmarks/evaluate.py", *SOP.split(), part]
    timed = {
        name: [*command, "--json", str(folder / f"{name}.json")] for name, command in parts.items()
    }
    return {"tests": tests, **timed}


def write_images(path: Path, count: int = 512, classes: int = 16) -> None:
    """Write a zip of JPEGs of noise, 300 x 300, in one folder per class."""
    random = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(count):
            small = random.integers(256, size=(30, 30, 3), dtype=np.uint8)
            buffer = io.BytesIO()
            Image.fromarray(small).resize((300, 300)).save(buffer, "JPEG")
            name = f"{number % classes:03}.class/{number:05}.jpg"
            archive.writestr(name, buffer.getvalue())


def test_counts(path: Path) -> dict[str, int]:
    """Return the numbers of passed, failed and skipped tests in a JUnit file."""
    suites = ElementTree.parse(path).getroot().iter("testsuite")
    total = {name: 0 for name in ("tests", "failures", "errors", "skipped")}
    for suite in suites:
        for name in total:
            total[name] += int(suite.get(name, 0))
    failed = total["failures"] + total["errors"]
    passed = total["tests"] - failed - total["skipped"]
    return {"passed": passed, "failed": failed, "skipped": total["skipped"]}


def run_part(name: str, command: list[str], folder: Path) -> dict[str, Any]:
    """Run one part and return its figures, with its exit status and seconds."""
    print(f"\n== {name}: python {' '.join(command)}", flush=True)
    started = time.monotonic()
    paths = [
        *map(str, (ROOT / "src", ROOT, ROOT / "tests")),
        *filter(None, [os.environ.get("PYTHONPATH")]),
    ]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, check=False)
    figures: dict[str, Any] = {"status": done.returncode}
    figures["seconds"] = round(time.monotonic() - started, 1)
    if name == "tests" and (folder / "tests.xml").exists():
        figures |= test_counts(folder / "tests.xml")
    if (path := folder / f"{name}.json").exists():
        figures |= json.loads(path.read_text(encoding="utf-8"))
    return figures


def print_table(card: dict[str, Any], results: dict[str, dict[str, Any]]) -> None:
    """Print card, versions, tests, and the benchmarks with what they should reach."""
    print("\n| what | found | expected |\n|---|---|---|")
    for name, value in card.items():
        print(f"| {name} | {value} | |")
    counts = ", ".join(f"{results['tests'].get(k, '?')} {k}" for k in ("passed", "failed"))
    print(f"| tests | {counts} | 0 failed |")
    for (part, name), (sign, target) in TARGETS.items():
        value = results[part].get(name)
        found = "not measured" if value is None else f"{value:.3g}"
        print(f"| {part}: {name} | {found} | {f'{sign} {target:g}' if sign else ''} |")


def main() -> int:
    """Run everything, print a table, write benchmarks/results/gpu-<card>.json."""
    if not torch.cuda.is_available():
        print("no GPU. With one, this would run:")
        for command in commands(Path("<folder>")).values():
            print(f"  python {' '.join(command)}")
        return 0
    card, results = collect_environment(setup_device(1)), {}
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_images(folder / "images.zip")
        for name, command in commands(folder).items():
            results[name] = run_part(name, command, folder)
    print_table(card, results)
    slug = re.sub(r"[^a-z0-9]+", "-", card["device"].lower()).strip("-")
    path = ROOT / "benchmarks" / "results" / f"gpu-{slug}.json"
    text = json.dumps({"environment": card, **results}, indent=2)
    path.write_text(text + "\n", encoding="utf-8")
    print(f"\nwritten: {path.relative_to(ROOT)}")
    return int(any(each["status"] for each in results.values()))


if __name__ == "__main__":
    sys.exit(main())
