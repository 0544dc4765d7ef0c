"""Try the settings in a minute: `python -m stages.debug_build`.

It builds one method, one seed and two epochs of the first data set of `run.datasets`, in a copy of
the project in `.local/debug`. No file of the project changes.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from dvc.utils.serialize import modify_yaml

from heated.common.errors import run
from heated.common.io import write_text

COPY, EPOCHS = Path(".local/debug"), 2
FILES = ("params.yaml", "datasets.yaml", "studies.yaml", "claims.yaml", "dvc.yaml", ".dvcignore")


def main() -> None:
    """Build in the copy, and exit with the build's status."""
    shutil.rmtree(COPY, ignore_errors=True)
    for folder in ("src", "stages", ".dvc/plots"):
        shutil.copytree(folder, COPY / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copyfile(name, COPY / name)
    settings = Path(".dvc/config").read_text(encoding="utf-8")
    no_git = settings.replace("[core]\n", "[core]\n    no_scm = true\n")
    write_text(COPY / ".dvc/config", no_git)
    shorten(COPY)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("DVC_")}
    environment |= {"PYTHONPATH": str((COPY / "src").resolve()), "HEATED_TRACKING": "off"}
    command = [sys.executable, "-m", "stages", "2"]
    status = subprocess.run(command, cwd=COPY, env=environment, check=False).returncode
    if not status:
        print(f"The report of the debug build is {(COPY / 'report/index.html').resolve()}.")
    sys.exit(status)


def shorten(folder: Path) -> None:
    """Reduce the settings in a folder to one method, one seed and EPOCHS of one data set."""
    with modify_yaml(str(folder / "params.yaml")) as params:
        grid, method = params["run"], params["report"]["gallery_method"]
        name = str(grid["datasets"][0])
        grid |= {"datasets": [name], "methods": [method], "seeds": grid["seeds"][:1]}
        make_absolute(params["download"], "mirror", "cache")
    with modify_yaml(str(folder / "studies.yaml")) as studies:
        for study in studies["studies"].values():
            study |= {"datasets": []} if "datasets" in study else {"methods": [method]}
    with modify_yaml(str(folder / "datasets.yaml")) as datasets:
        entry = datasets["datasets"][name]
        entry.setdefault("training", {})["epochs"] = EPOCHS
        make_absolute(entry["source"], "path")
        make_absolute(entry["training"], "weights")


def make_absolute(section: Any, *keys: str) -> None:
    """Make paths absolute that are relative to the project."""
    for key in keys:
        if (value := section.get(key)) and Path(value).exists():
            section[key] = str(Path(value).resolve())


if __name__ == "__main__":
    run(main)
