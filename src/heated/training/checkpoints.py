"""Trainings put away under the project's root, each named by a hash of everything that made it:
recipe, data, code, seed, and the values of alpha and learning rate in every epoch so far.

So a training that was killed finds its place, methods that begin alike train their beginning once,
and a changed end of a schedule trains only the end again. A cache: with it or without it the
weights are the same. DVC removes a stage's outputs before it runs the stage again; this it leaves.
"""

import ast
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from heated.common.io import whole

# What decides which weights and which history come out: every module of FOLDERS, and MODULES.
FOLDERS = ("data", "losses", "models", "training")
MODULES = ("common.initializers", "runtime.device", "runtime.distributed")
WITHOUT_EFFECT = frozenset(
    {
        "training.grid_search",  # chooses recipes, and a recipe is part of the name
        "training.provenance",  # writes down what was trained
        "training.schedules",  # its values are part of the name
    }
)
MIB = 2**20


def fingerprint(made_by: Any) -> str:
    """64 hexadecimal digits: the same for equal values, in whatever order the keys stand."""
    canonical = json.dumps(made_by, sort_keys=True, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def code_modules() -> list[str]:
    """Return the modules of this package that decide on weights and history."""
    package = Path(__file__).parents[1]
    found = [
        ".".join(path.relative_to(package).with_suffix("").parts)
        for folder in FOLDERS
        for path in sorted((package / folder).rglob("*.py"))
        if path.stem != "__init__"
    ]
    return [*MODULES, *(module for module in found if module not in WITHOUT_EFFECT)]


def code_digest(modules: Iterable[str] | None = None) -> str:
    """Hash modules of this package, by default `code_modules`.

    They are hashed as they are parsed, so that a comment changes nothing.
    """
    sources = []
    for module in code_modules() if modules is None else modules:
        spec = find_spec(f"heated.{module}")
        assert spec is not None, module
        assert spec.origin is not None, module
        sources.append(ast.dump(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))))
    return hashlib.sha256("".join(sources).encode()).hexdigest()


@dataclass(frozen=True)
class Saved:
    """A training as it was put away: tensors by name, and what JSON holds of it."""

    tensors: dict[str, Tensor]
    record: dict[str, Any]


@dataclass
class Checkpoints:
    """The checkpoints of one training of so many epochs, made by `beginning`, which it may share
    with others, and by `epochs`, what is set in each.

    landmarks: numbers of epochs whose checkpoint stays; of the others only the last two do. every:
    seconds between checkpoints within an epoch. budget: MiB of the whole folder; the oldest go.
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
        """The folder of all trainings that begin alike."""
        return self.folder / fingerprint(self.beginning)[:32]

    def path(self, epochs: int, *, within: bool = False) -> Path:
        """Where the checkpoint after so many epochs is, or the one within the next epoch."""
        made_by = fingerprint(list(self.epochs[: epochs + within]))
        place = "within" if within else "after"
        return self.family / f"{place}-{epochs}-{made_by[:32]}.safetensors"

    def latest(self) -> Saved | None:
        """The one that is farthest, of those that can be read; None if there is none."""
        for epochs in range(len(self.epochs), -1, -1):
            for within in (True, False):
                if within and epochs == len(self.epochs):
                    continue
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
        """Put away what there is after so many epochs, or within the next one, and remove what it
        makes superfluous."""
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
    """One file, whole or not at all; where it cannot be written training goes on without it."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        with whole(path) as temporary:
            save_file(contiguous, temporary, {"record": json.dumps(record, allow_nan=False)})
    except (OSError, SafetensorError) as error:
        print(f"no checkpoint {path.name}: {error}; training goes on", file=sys.stderr)


def read(path: Path) -> Saved | None:
    """What was put away; None, and no file any more, where it cannot be read."""
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
    """Remove checkpoints, the ones not used for longest first, until those left fit the budget."""
    files = sorted(sizes(folder))
    excess = sum(size for _, size, _ in files) - budget * MIB
    for _, size, path in files:
        if excess > 0 and path != spare:
            path.unlink(missing_ok=True)
            excess -= size


def sizes(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """When each checkpoint was last used, and its bytes, also of half ones that a killed process
    left; others may be removing them."""
    for path in folder.glob("*/*"):
        with suppress(FileNotFoundError):
            stat = path.stat()
            if path.suffix != ".lock":
                yield stat.st_mtime, stat.st_size, path


def partings(epochs: Sequence[Any], others: Iterable[Sequence[Any]]) -> frozenset[int]:
    """After how many epochs each of the others parts from the first; not where none is shared.

    >>> sorted(partings([16, 16, 4], [[16, 16, 16], [16, 4, 4], [8, 8, 8], [16, 16, 4]]))
    [1, 2]
    """
    found = set()
    for other in others:
        pairs = enumerate(zip(epochs, other, strict=False))
        found.add(next((number for number, (one, two) in pairs if one != two), 0))
    return frozenset(found - {0})


class Lock:
    """A lock between processes, which ends with the process that holds it, however that ends."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.lock = FileLock(path)

    def held(self, *, wait: bool) -> bool:
        """Take the lock; without `wait`, False where another process has it."""
        try:
            self.lock.acquire(timeout=-1 if wait else 0)
        except Timeout:
            return False
        return True

    def release(self) -> None:
        """Let go, if it was held."""
        self.lock.release(force=True)
