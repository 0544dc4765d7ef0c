"""Cache checkpoints in one folder, each named by a hash of everything that determines its weights.

The hash covers the recipe, the data, the code, the seed, and the values of alpha and learning rate
in every epoch so far. An interrupted training resumes, methods that share an initial schedule share
that training, and a change to the end of a schedule trains only the end. Weights are the same
without the cache. It is not an output of DVC, which would delete it before every training.
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
from typing import Any, Self

from safetensors import SafetensorError
from torch import Tensor

from heated.common.errors import InputError
from heated.common.io import MIB
from heated.common.tensors import read_tensors, write_tensors

# The code that determines weights and history: every module of FOLDERS, and MODULES.
FOLDERS = ("data", "losses", "models", "training")
MODULES = ("common.geometry", "runtime.device", "runtime.distributed")
# They choose and record recipes, whose values are part of the hash.
WITHOUT_EFFECT = {"training.grid_search", "training.provenance", "training.schedules"}
PACKAGE = Path(__file__).parents[1]


def fingerprint(value: Any) -> str:
    """Return the SHA-256 of a JSON value in hexadecimal, independent of the order of keys."""
    canonical = json.dumps(value, sort_keys=True, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def code_modules() -> list[str]:
    """List the modules of this package that determine weights and history."""
    paths = [path for folder in FOLDERS for path in sorted((PACKAGE / folder).rglob("*.py"))]
    modules = [".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in paths]
    skipped = {*WITHOUT_EFFECT, *(f"{folder}.__init__" for folder in FOLDERS)}
    return [*MODULES, *(module for module in modules if module not in skipped)]


def code_digest(modules: Iterable[str] | None = None) -> str:
    """Hash the syntax trees of modules, by default `code_modules`; comments change nothing."""
    names = code_modules() if modules is None else modules
    paths = [(PACKAGE / name.replace(".", "/")).with_suffix(".py") for name in names]
    sources = [ast.dump(ast.parse(path.read_text(encoding="utf-8"))) for path in paths]
    return hashlib.sha256("".join(sources).encode()).hexdigest()


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint: tensors by name, and everything else as JSON in `record`."""

    tensors: Mapping[str, Tensor]
    record: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Read a file and mark it as used. Return None if it is missing; delete it if damaged."""
        if not path.exists():
            return None
        try:
            tensors, record = read_tensors(path, "record")
        except (OSError, InputError) as error:
            print(f"checkpoint: {error}. It is deleted, the one before is used.", file=sys.stderr)
            path.unlink(missing_ok=True)
            return None
        os.utime(path)
        return cls(tensors, record)

    def write(self, path: Path) -> None:
        """Write the file atomically. If that fails, print why: training continues without it."""
        try:
            write_tensors(path, self.tensors, "record", self.record)
        except (OSError, SafetensorError) as error:
            message = f"checkpoint {path.name}: not written ({error}), training continues"
            print(message, file=sys.stderr)


@dataclass
class CheckpointCache:
    """The checkpoints of one training."""

    folder: Path  # shared by all trainings
    inputs: Mapping[str, Any]  # everything that determines the weights, except `epoch_values`
    epoch_values: Sequence[Any]  # the settings of each epoch
    keep_epochs: frozenset[int]  # never superseded; of other epochs, the last two are kept
    interval_s: float  # seconds between checkpoints within an epoch
    max_size_mib: float  # of `folder`; the least recently used files are deleted
    saved_at: float = field(default_factory=time.monotonic)

    @property
    def family_folder(self) -> Path:
        """The folder of all trainings with the same inputs."""
        return self.folder / fingerprint(self.inputs)[:32]

    @property
    def prefix_lock(self) -> Path:
        """The lock file of all trainings whose first epoch is the same."""
        return self.path(1).with_suffix(".lock")

    def path(self, epochs: int, *, mid_epoch: bool = False) -> Path:
        """Return the path of the checkpoint after `epochs` epochs, or within the next one."""
        digest = fingerprint(list(self.epoch_values[: epochs + mid_epoch]))[:32]
        place = "within" if mid_epoch else "after"
        return self.family_folder / f"{place}-{epochs}-{digest}.safetensors"

    def load_latest(self) -> Checkpoint | None:
        """Load the most advanced readable checkpoint, if any."""
        candidates = product(range(len(self.epoch_values), -1, -1), (True, False))
        checkpoints = (Checkpoint.read(self.path(n, mid_epoch=mid)) for n, mid in candidates)
        return next((each for each in checkpoints if each is not None), None)

    def save(self, checkpoint: Checkpoint, epochs: int, *, mid_epoch: bool = False) -> None:
        """Save the checkpoint after `epochs` epochs, or within the next; delete outdated ones."""
        path = self.path(epochs, mid_epoch=mid_epoch)
        checkpoint.write(path)
        if not mid_epoch and epochs > 0:
            self.path(epochs - 1, mid_epoch=True).unlink(missing_ok=True)
        if not mid_epoch and epochs > 1 and epochs - 2 not in self.keep_epochs:
            self.path(epochs - 2).unlink(missing_ok=True)
        self.saved_at = time.monotonic()
        self.shrink(spare=path)

    def is_due(self) -> bool:
        """Return whether a checkpoint within the epoch is due."""
        return time.monotonic() - self.saved_at >= self.interval_s

    def shrink(self, *, spare: Path) -> None:
        """Delete the least recently used files, also partial ones, until the limit is met."""
        files = []
        for path in self.folder.glob("*/*"):
            with suppress(FileNotFoundError):  # another process deleted it
                if path.suffix != ".lock":
                    files.append((path.stat().st_mtime, path.stat().st_size, path))
        excess = sum(size for _, size, _ in files) - self.max_size_mib * MIB
        for _, size, path in sorted(files):
            if excess > 0 and path != spare:
                path.unlink(missing_ok=True)
                excess -= size
