"""Describe where a result is made: hardware, versions, commit.

`python -m heated.runtime.environment` prints it for a bug report.
"""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "torchvision", "numpy", "scikit-learn")
TOOLS = ("heated", "dvc", "mlflow", "pillow", "scipy", "pydantic")  # in addition, for bug reports
RESULTS = ("dvc.lock", "metrics.json")  # in git, and written by the stages themselves


def environment(device: torch.device) -> dict[str, Any]:
    """Hardware and versions, as they go into a run's provenance."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "device_type": device.type,
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
    }


def processor() -> str:
    """The CPU's name where the system tells it, else its architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def source_commit() -> dict[str, Any]:
    """The commit, whether the tree differed from it, but for the results that a build writes, and
    DVC's names for stage and experiment."""
    source = [":/", *(f":(top,exclude){name}" for name in RESULTS)]
    return {
        "commit": git("rev-parse", "HEAD"),
        "modified": bool(git("status", "--porcelain", "--untracked-files=no", "--", *source)),
        "stage": os.environ.get("DVC_STAGE"),
        "experiment": os.environ.get("DVC_EXP_NAME"),
    }


def git(*arguments: str) -> str | None:
    """What git prints; None outside a repository or without git."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def main() -> None:
    """Print hardware, versions and commit, to paste into a bug report."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tools = {package: version(package) for package in TOOLS}
    for name, value in {**environment(device), **tools, **source_commit()}.items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    main()
