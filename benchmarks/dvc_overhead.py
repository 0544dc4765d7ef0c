"""Measure the overhead of DVC on an up-to-date pipeline.

    python benchmarks/dvc_overhead.py 50 200

For each number of runs, a copy of the project has as many methods on digits, and a stub for every
output. The lock file is written once, since DVC would rewrite it after every stage.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import chdir
from pathlib import Path
from statistics import median
from typing import Any

import yaml
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
FILES = ("params.yaml", "datasets.yaml", "studies.yaml", "claims.yaml", "dvc.yaml", ".dvcignore")


def make_project(folder: Path, runs: int) -> None:
    """Write a copy of the project with `runs` methods on digits and nothing else."""
    for name in FILES:
        (folder / name).write_bytes((ROOT / name).read_bytes())
    for name in ("src", "stages"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    params = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    added = [f"hbn-{number}" for number in range(runs - 1)]
    params["methods"] |= {name: {"base": "hbn"} for name in added}
    params["run"]["methods"] = ["hbn", *added]
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    studies = yaml.safe_load((folder / "studies.yaml").read_text(encoding="utf-8"))
    studies["studies"]["planes"]["datasets"] = []
    (folder / "studies.yaml").write_text(yaml.safe_dump(studies), encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-m", "stages.resolve"]
    subprocess.run(command, cwd=folder, check=True, env=environment)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q", "--no-scm"], cwd=folder, check=True)


def write_stubs_and_lock(folder: Path) -> int:
    """Write a stub for every output, and a lock file that has all of them; return its lines."""
    from dvc.repo import Repo
    from dvc.stage.serialize import to_single_stage_lockfile

    lock: dict[str, Any] = {"schema": "2.0", "stages": {}}
    with chdir(folder), Repo() as repo, repo.lock:
        for stage in repo.index.stages:
            for out in stage.outs:
                path = Path(out.fs_path)
                if not path.exists():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text("stub", encoding="utf-8")
        for stage in repo.index.stages:
            stage.save(run_cache=False)
            stage.commit()
            lock["stages"][stage.name] = to_single_stage_lockfile(stage)
    path = folder / "dvc.lock"
    with path.open("w", encoding="utf-8") as file:
        YAML(typ="safe").dump(json.loads(json.dumps(lock)), file)
    return len(path.read_text(encoding="utf-8").splitlines())


def time_no_op(folder: Path) -> tuple[float, float]:
    """Run an up-to-date `dvc repro`; return its wall and CPU seconds."""
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "dvc", "repro"]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "Data and pipelines are up to date" in done.stdout, done.stdout
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return time.perf_counter() - started, cpu


def main() -> None:
    """Print a line per number of runs, and the ratio of the last to the first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=int)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    for runs in options.runs:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name).resolve()
            make_project(folder, runs)
            lines = write_stubs_and_lock(folder)
            time_no_op(folder)  # fills DVC's own caches
            times = [time_no_op(folder) for _ in range(options.repeats)]
        wall, cpu = (round(median(each), 2) for each in zip(*times, strict=True))
        row = {"runs": runs, "lock_lines": lines, "wall_s": wall, "cpu_s": cpu}
        rows.append(row | {"repeats": options.repeats})
        print(json.dumps(rows[-1]), flush=True)
    print(f"cpu, last / first: {rows[-1]['cpu_s'] / rows[0]['cpu_s']:.2f}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
