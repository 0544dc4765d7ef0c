"""Describe where a result is made: hardware, versions, commit.

`python -m heated.runtime.environment` prints it for a bug report.
"""

import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import torch

from heated.common.history import Logger, Row
from heated.runtime.device import backend_settings

PACKAGES = ("torch", "torchvision", "numpy", "scikit-learn")
TOOLS = ("heated", "dvc", "mlflow", "pillow", "scipy", "pydantic")  # in addition, for bug reports
RESULTS = ("dvc.lock", "metrics")  # in git, and written by the stages themselves
MIN_INTERVAL_S = 0.1  # a shorter one is too short to measure the use of a processor
MB = 1e6


def collect_environment(device: torch.device) -> dict[str, Any]:
    """Return hardware and versions; of a GPU also `backend_settings`."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name(),
        "device_type": device.type,
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
        **(backend_settings() if device.type == "cuda" else {}),
    }


def cpu_name() -> str:
    """Return the CPU's name if the system provides it, else its architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(encoding="utf-8") if cpuinfo.exists() else ""
    name = re.search(r"^model name\s*:\s*(.+?)\s*$", text, re.MULTILINE)
    return name.group(1) if name else platform.processor() or platform.machine()


def source_commit() -> dict[str, Any]:
    """Return the commit, whether tracked sources are modified, and DVC's stage and experiment.

    Both are None if unknown: git is missing or refuses, or its repository, perhaps that of a folder
    above, does not track this folder.
    """
    source = [".", *(f":(exclude){name}" for name in RESULTS)]
    commit = changes = None
    if git("ls-files", "--", "."):
        commit = git("rev-parse", "HEAD")
        changes = git("status", "--porcelain", "--untracked-files=no", "--", *source)
    return {
        "commit": commit,
        "modified": None if changes is None else bool(changes),
        "stage": os.environ.get("DVC_STAGE"),
        "experiment": os.environ.get("DVC_EXP_NAME"),
    }


def git(*arguments: str) -> str | None:
    """Return git's output, or None if it fails; print why, except outside a repository."""
    env = {**os.environ, "LC_ALL": "C"}  # messages in English
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, env=env)
    except OSError as error:
        done = subprocess.CompletedProcess(arguments, 1, "", f"git: {error.strerror}")
    if done.returncode == 0:
        return done.stdout.strip()
    if not done.stderr.startswith("fatal: not a git repository"):
        print(f"The commit is not recorded. {done.stderr.strip()}", file=sys.stderr)
    return None


class SystemMetricsLogger:
    """Add system metrics, under MLflow's names, to each row before passing it to a logger.

    Rows of a resumed training's earlier epochs follow within MIN_INTERVAL_S, and get none.
    """

    def __init__(self, device: torch.device, logger: Logger) -> None:
        self.device, self.logger, self.process = device, logger, psutil.Process()
        self.rows: dict[int, list[Row]] = {}  # the metrics by seed
        self.sources = self.metric_sources()
        self.since = time.monotonic()
        self.measure()  # psutil's percentages are relative to the last call

    def log(self, seed: int, row: Row) -> None:
        """Pass a row on, with the system metrics since the last row."""
        rows, metrics = self.rows.setdefault(seed, []), {}
        if time.monotonic() - self.since >= MIN_INTERVAL_S:
            metrics, self.since = self.measure(), time.monotonic()
            rows.append({"epoch": row["epoch"], **metrics})
        self.logger.log(seed, {**row, **metrics})

    def metric_sources(self) -> dict[str, Callable[[], float]]:
        """Return functions: percent of all CPUs, of one CPU by this process, memory, the GPU's."""
        sources: dict[str, Callable[[], float]] = {
            "system/cpu_utilization_percentage": psutil.cpu_percent,
            "system/process_cpu_percentage": self.process.cpu_percent,
            "system/process_memory_megabytes": lambda: self.process.memory_info().rss / MB,
        }
        if self.device.type == "cuda":
            reserved = partial(torch.cuda.memory_reserved, self.device)
            sources["system/gpu_memory_megabytes"] = lambda: reserved() / MB
            if find_spec("pynvml"):
                usage = partial(torch.cuda.utilization, self.device)
                sources["system/gpu_utilization_percentage"] = usage
        return sources

    def measure(self) -> Row:
        """Return all metrics. One that fails, as on a part of a GPU, is left out from then on."""
        values: Row = {}
        for name, source in [*self.sources.items()]:
            try:
                values[name] = source()
            except Exception as error:  # a driver's, of any type; no metric may end a training
                print(f"{name}: not measured ({error!r})", file=sys.stderr)
                del self.sources[name]
        return values


def main() -> None:
    """Print hardware, versions and commit, to paste into a bug report."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tools = {package: version(package) for package in TOOLS}
    for name, value in {**collect_environment(device), **tools, **source_commit()}.items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    main()
