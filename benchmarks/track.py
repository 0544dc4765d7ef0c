"""Measure `make track` on synthetic runs: the first time, unchanged, and after a run has changed.

    python benchmarks/track.py --runs 30 --seeds 2 --epochs 80

The files of the other stages are written to a temporary folder. The stage `track` then uploads them
to an empty MLflow database, three times.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from heated.common.history import write_history
from heated.common.io import read_record, write_json, write_record, write_text
from heated.evaluation.metrics import summarize_seeds

ROOT = Path(__file__).parents[1]
PART = {"images": 900, "classes": 5}
SECTION = {"source": {"name": "digits"}}


def write_run(folder: Path, method: str, seeds: int, epochs: int) -> None:
    """Write one method's history, metrics and provenance."""
    random = np.random.default_rng(len(method))
    columns = ("alpha", "temperature", "lr", "loss", "accuracy", "recall_at_1")
    rows = {
        seed: [
            {"epoch": epoch, **dict(zip(columns, random.random(len(columns)), strict=True))}
            for epoch in range(epochs)
        ]
        for seed in range(seeds)
    }
    metrics = {seed: {f"recall_at_{k}": random.random() for k in (1, 2, 4)} for seed in rows}
    record = {
        "dataset": "digits",
        "method": method,
        "key": method,
        "params": {"epochs": epochs, "lr": 0.05, "embedding_dim": 64},
        "data_sha256": "ab" * 32,
        "split": {"tested": "synthetic", **dict.fromkeys(("train", "query", "gallery"), PART)},
        "source": {"commit": "c0ffee"},
        "environment": {"device": "synthetic"},
        "started": "2026-11-24T10:00:00+00:00",
        "seeds": {str(seed): {"seconds": 60.0} for seed in rows},
    }
    write_history(folder / "history.csv", rows)
    write_json(folder / "metrics.json", summarize_seeds(metrics))
    write_record(folder / "provenance.json", record)


def write_project(folder: Path, methods: list[str], seeds: int, epochs: int) -> None:
    """Write the runs, a report and the resolved settings of the stage `track`."""
    for method in methods:
        write_run(folder / "runs" / "digits" / method, method, seeds, epochs)
    for name in ("index.html", *(f"tables/digits.{kind}" for kind in ("md", "csv", "tex"))):
        write_text(folder / "report" / name, "synthetic")
    tags = {"dataset": "digits", "recipe": "digits", "study": "run", "backbone": "conv4"}
    given = {"section": SECTION, "tags": {method: tags | {"method": method} for method in methods}}
    settings = {"enabled": True, "models": "none", "datasets": {"digits": given}}
    write_record(folder / "data" / "resolved" / "tracking.json", settings)


def run_track(folder: Path) -> dict[str, float]:
    """Run the stage; return its wall and CPU seconds."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    environment |= {"DVC_ROOT": str(folder), "MLFLOW_DISABLE_TELEMETRY": "true"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "stages.track"], cwd=folder, env=environment, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return {"wall": time.perf_counter() - started, "cpu": cpu}


def main() -> None:
    """Run `track` three times; print the seconds and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=80)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    methods = [f"method-{number}" for number in range(options.runs)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_project(folder, methods, options.seeds, options.epochs)
        measured = {"first": run_track(folder), "second": run_track(folder)}
        path = folder / "runs" / "digits" / methods[0] / "provenance.json"
        write_record(path, read_record(path) | {"environment": {"device": "another"}})
        measured["one run changed"] = run_track(folder)
    for name, seconds in measured.items():
        print(f"{name}: {seconds['wall']:.1f} s, {seconds['cpu']:.1f} s of CPU")
    ratios = {kind: measured["second"][kind] / measured["first"][kind] for kind in ("wall", "cpu")}
    print(f"second / first: {ratios['wall']:.2f}, of CPU {ratios['cpu']:.2f}")
    if options.json:
        text = json.dumps({**measured, "ratio": ratios}, indent=2)
        options.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
