"""Measure how `heated.pipeline.cluster` scales, with stages that only sleep.

    python benchmarks/cluster_scaling.py --runs 200 --sleep 60 2 8 32

For each number of workers, a repository with as many runs is built on a Ray cluster of this machine
that has as many slots. Each run has three stages, of which `train` sleeps. The remote is a folder.
Efficiency is the time of all sleeps / (workers x time of the driver). On one machine the workers
share its cores, so the CPU time of a task tells how much a worker with its own core would lose.
"""

import argparse
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
RAY = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
RAY += ["--object-store-memory", "100000000", "--disable-usage-stats"]
RAY += ["--include-dashboard", "false", "--node-ip-address", "127.0.0.1"]
PORT = "6397"
# At the end of a task: its CPU seconds with those of its children, into a file of its own.
USAGE = """
import atexit, pathlib, resource
def write_usage():
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    seconds = sum(usage.ru_utime + usage.ru_stime for usage in usages)
    pathlib.Path(os.environ["USAGE"], str(os.getpid())).write_text(str(seconds))
atexit.register(write_usage)
"""


def make_repository(folder: Path, runs: int, sleep: float) -> None:
    """Write and commit a pipeline of `runs` runs, with a remote in the same folder."""
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("src", "stages"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    package = folder / "src/heated/pipeline"
    server = package / "fork_server.py"  # the imports of PyTorch belong to real stages
    text = server.read_text(encoding="utf-8")
    server.write_text(text.replace("PRELOADED = (", "PRELOADED = () and ("), encoding="utf-8")
    task = package / "cluster_task.py"
    text = task.read_text(encoding="utf-8")
    task.write_text(text.replace("import os\n", f"import os\n{USAGE}", 1), encoding="utf-8")
    matrix = {"dataset": ["d"], "method": [f"m{number}" for number in range(runs)]}
    settings, packed = "data/resolved", "data/packed/${item.dataset}"
    code = "from pathlib import Path; from heated.common.io import write_record; "
    code += f"write_record(Path('{settings}/machine.json'), dict(threads=1))"
    stages: dict[str, Any] = {
        "resolve": {
            "cmd": f'{sys.executable} -c "{code}"',
            "deps": ["params.yaml"],
            "outs": [settings],
        },
        "split": {"matrix": {"dataset": ["d"]}, **stage("", settings, packed)},
    }
    dep = packed
    for kind in ("train", "embed", "evaluate"):
        out = f"runs/${{item.dataset}}/${{item.method}}/{kind}"
        stages[kind] = {
            "matrix": matrix,
            **stage(f"sleep {sleep} &&" * (kind == "train"), dep, out),
        }
        dep = out
    stages["report"] = stage("", "runs", "report")
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))
    (folder / "params.yaml").touch()
    (folder / ".gitignore").write_text("__pycache__\n/data\n/runs\n/report\n")
    author = ["-c", "user.name=benchmark", "-c", "user.email=benchmark@example.org"]
    remote = str(folder.with_name("remote"))
    dvc = [sys.executable, "-m", "dvc"]
    for command in (
        ["git", "init", "-q"],
        [*dvc, "init", "-q"],
        [*dvc, "config", "core.analytics", "false"],
        [*dvc, "remote", "add", "-q", "--default", "storage", remote],
        ["git", "add", "-A"],
        ["git", *author, "commit", "-q", "-m", "benchmark"],
    ):
        subprocess.run(command, cwd=folder, check=True)


def stage(first: str, dep: str, out: str) -> dict[str, Any]:
    """Return a stage whose output has its name."""
    command = f"{first} mkdir -p $(dirname {out}) && echo {out} > {out}"
    return {"cmd": command, "deps": [dep], "outs": [out]}


def measure(folder: Path, workers: int, env: dict[str, str]) -> dict[str, float]:
    """Build the repository on a cluster of `workers`; return seconds and CPU seconds."""
    log = folder.with_name("ray.log")
    with log.open("wb") as stream:
        command = [*RAY, "--num-cpus", str(workers), "--port", PORT]
        streams = {"stdout": stream, "stderr": stream}
        ray = subprocess.Popen(command, env=env, start_new_session=True, **streams)
    try:
        while "Ray runtime started" not in log.read_text(encoding="utf-8"):
            time.sleep(0.5)
            assert ray.poll() is None, log.read_text(encoding="utf-8")
        start, before = time.monotonic(), cpu_seconds(resource.getrusage(resource.RUSAGE_CHILDREN))
        command = [sys.executable, "-m", "heated.pipeline.cluster"]
        command += ["--address", f"127.0.0.1:{PORT}"]
        done = subprocess.run(command, cwd=folder, env=env, stdout=subprocess.PIPE, text=True)
        assert done.returncode == 0, done.stdout
        seconds = time.monotonic() - start
        driver = cpu_seconds(resource.getrusage(resource.RUSAGE_CHILDREN)) - before
        files = [*Path(env["USAGE"]).iterdir()]
        tasks = sum(float(file.read_text(encoding="utf-8")) for file in files)
    finally:
        os.killpg(ray.pid, signal.SIGKILL)
        ray.wait()
    return {"seconds": seconds, "driver_cpu_s": driver, "tasks_cpu_s": tasks}


def cpu_seconds(usage: resource.struct_rusage) -> float:
    """Return user and system time."""
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Print a line per number of workers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--sleep", type=float, default=60, help="seconds of a training")
    parser.add_argument("--json", type=Path, help="file of figures to add to")
    parser.add_argument("workers", type=int, nargs="+")
    given = parser.parse_args()
    figures = json.loads(given.json.read_text()) if given.json and given.json.exists() else []
    removed = ("GIT_", "DVC_", "MLFLOW_", "HEATED_", "PYTHONPATH")
    clean = {k: v for k, v in os.environ.items() if not k.startswith(removed)}
    print(f"load of this machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    for workers in given.workers:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "repository"
            folder.mkdir()
            make_repository(folder, given.runs, given.sleep)
            env = clean | {"HEATED_WORKER_FOLDER": f"{name}/worker", "RAY_AUTH_MODE": "disabled"}
            env["USAGE"] = f"{name}/usage"
            Path(env["USAGE"]).mkdir()
            env |= {"PYTHONPATH": str(folder / "src"), "RAY_worker_niceness": "0"}
            found = measure(folder, workers, env)
        efficiency = given.runs * given.sleep / (workers * found["seconds"])
        print(
            f"{given.runs} runs of {given.sleep:.0f} s on {workers} workers: "
            f"{found['seconds']:.0f} s, efficiency {efficiency:.2f}; CPU seconds: driver "
            f"{found['driver_cpu_s']:.0f}, per task {found['tasks_cpu_s'] / given.runs:.1f}",
            flush=True,
        )
        measured = {name: round(value, 1) for name, value in found.items()}
        settings = {"runs": given.runs, "run_s": given.sleep, "workers": workers}
        figures.append(settings | measured | {"efficiency": round(efficiency, 3)})
        if given.json:
            given.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
