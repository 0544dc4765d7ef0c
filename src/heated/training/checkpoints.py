"""Checkpoints under the project's root, each named by a hash of everything that made it: recipe,
data, code, seed, and the values of alpha and learning rate in every epoch so far.

So a killed training resumes, methods with the same first epochs share them, and a changed end of a
schedule trains only the end again. The weights are the same without them. DVC does not remove them,
unlike a stage's outputs, before it runs the stage again.
"""

import ast
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from heated.common.io import whole

# What decides which weights and which history come out: every module of FOLDERS, and MODULES.
FOLDERS = ("data", "losses", "models", "training")
MODULES = ("common.geometry", "runtime.device", "runtime.distributed")
# These choose recipes, and write down what was trained; a recipe's values are part of the name.
WITHOUT_EFFECT = {"training.grid_search", "training.provenance", "training.schedules"}
PACKAGE = Path(__file__).parents[1]
MIB = 2**20


def fingerprint(made_by: Any) -> str:
    """Return 64 hexadecimal digits, the same for equal values in any order of keys."""
    canonical = json.dumps(made_by, sort_keys=True, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def code_modules() -> list[str]:
    """Return the modules of this package that decide on weights and history."""
    paths = [path for folder in FOLDERS for path in sorted((PACKAGE / folder).rglob("*.py"))]
    found = [".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in paths]
    skipped = {*WITHOUT_EFFECT, *(f"{folder}.__init__" for folder in FOLDERS)}
    return [*MODULES, *(module for module in found if module not in skipped)]


def code_digest(modules: Iterable[str] | None = None) -> str:
    """Hash modules, by default `code_modules`, as they are parsed: a comment changes nothing."""
    names = code_modules() if modules is None else modules
    paths = [(PACKAGE / name.replace(".", "/")).with_suffix(".py") for name in names]
    sources = [ast.dump(ast.parse(path.read_text(encoding="utf-8"))) for path in paths]
    return hashlib.sha256("".join(sources).encode()).hexdigest()


@dataclass(frozen=True)
class Saved:
    """A checkpoint: tensors by name, and the rest as JSON."""

    tensors: dict[str, Tensor]
    record: dict[str, Any]


@dataclass
class Checkpoints:
    """The checkpoints of one training.

    Attributes:
        beginning: What makes it, apart from `epochs`: the settings of each epoch.
        landmarks: Numbers of epochs after which a checkpoint stays; of others only the last two do.
        every: Seconds between checkpoints within an epoch.
        budget: MiB of the whole folder; the oldest go.
    """

    folder: Path
    beginning: Mapping[str, Any]
    epochs: Sequence[Any]
    landmarks: frozenset[int]
    every: float
    budget: float
    saved: float = field(default_factory=time.monotonic)

    @property
    def family(self) -> Path:
        """The folder of all trainings with the same beginning."""
        return self.folder / fingerprint(self.beginning)[:32]

    def path(self, epochs: int, *, within: bool = False) -> Path:
        """Return the path of the checkpoint after so many epochs, or within the next one."""
        made_by = fingerprint(list(self.epochs[: epochs + within]))
        place = "within" if within else "after"
        return self.family / f"{place}-{epochs}-{made_by[:32]}.safetensors"

    def latest(self) -> Saved | None:
        """Return the farthest one that can be read, if there is any."""
        for epochs, within in product(range(len(self.epochs), -1, -1), (True, False)):
            if (found := read(self.path(epochs, within=within))) is not None:
                return found
        return None

    def keep(
        self,
        tensors: Mapping[str, Tensor],
        record: Mapping[str, Any],
        epochs: int,
        *,
        within: bool = False,
    ) -> None:
        """Write the checkpoint after so many epochs, or within the next one, and remove those that
        it supersedes."""
        path = self.path(epochs, within=within)
        write(path, tensors, record)
        if not within and epochs > 0:
            self.path(epochs - 1, within=True).unlink(missing_ok=True)
        if not within and epochs > 1 and epochs - 2 not in self.landmarks:
            self.path(epochs - 2).unlink(missing_ok=True)
        self.saved = time.monotonic()
        shrink(self.folder, self.budget, spare=path)

    def due(self) -> bool:
        """Whether it is time for a checkpoint within the epoch."""
        return time.monotonic() - self.saved >= self.every


def write(path: Path, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
    """Write a checkpoint whole; if it cannot be written, training goes on without it."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        with whole(path) as temporary:
            save_file(contiguous, temporary, {"record": json.dumps(record, allow_nan=False)})
    except (OSError, SafetensorError) as error:
        print(f"no checkpoint {path.name}: {error}; training goes on", file=sys.stderr)


def read(path: Path) -> Saved | None:
    """Read a checkpoint; one that cannot be read is removed."""
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            record = json.loads(file.metadata()["record"])
        tensors = load_file(path)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        print(f"checkpoint {path.name} cannot be read ({error}) and is removed", file=sys.stderr)
        path.unlink(missing_ok=True)
        return None
    os.utime(path)
    return Saved(tensors, record)


def shrink(folder: Path, budget: float, *, spare: Path) -> None:
    """Remove checkpoints, and parts that a killed process left, until the rest fits the budget: the
    ones not used for longest first."""
    files = []
    for path in folder.glob("*/*"):
        with suppress(FileNotFoundError):  # another process removed it
            if path.suffix != ".lock":
                files.append((path.stat().st_mtime, path.stat().st_size, path))
    excess = sum(size for _, size, _ in files) - budget * MIB
    for _, size, path in sorted(files):
        if excess > 0 and path != spare:
            path.unlink(missing_ok=True)
            excess -= size


def partings(epochs: Sequence[Any], others: Iterable[Sequence[Any]]) -> frozenset[int]:
    """Return after how many epochs each of `others` differs from `epochs`, without 0.

    >>> sorted(partings([16, 16, 4], [[16, 16, 16], [16, 4, 4], [8, 8, 8], [16, 16, 4]]))
    [1, 2]
    """
    found = set()
    for other in others:
        pairs = enumerate(zip(epochs, other, strict=False))
        found.add(next((number for number, (one, two) in pairs if one != two), 0))
    return frozenset(found - {0})
