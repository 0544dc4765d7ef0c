"""Finished seeds, kept under the project's root and named by a hash of everything that made them.

A cache: with it or without it the weights are the same. DVC removes a stage's outputs before it
runs the stage again; what was trained before is found here, so that only a new seed is trained.
"""

import ast
import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from heated.files import read_json, remove, whole, write_json

# The modules that decide which weights and which history come out.
CODE = (
    "augment",
    "backbones",
    "checkpoints",
    "classifier",
    "distributed",
    "embedding",
    "geometry",
    "initialisation",
    "models",
    "neighbours",
    "normalise",
    "retrieval",
    "runs",
    "screening",
    "training",
)


def fingerprint(made_by: Mapping[str, Any]) -> str:
    """64 hexadecimal digits: the same for equal values, in whatever order the keys stand."""
    canonical = json.dumps(made_by, sort_keys=True, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def code_digest(modules: Iterable[str] = CODE) -> str:
    """A hash of modules of this package as they are parsed, so that a comment changes nothing."""
    sources = []
    for module in modules:
        spec = find_spec(f"heated.{module}")
        assert spec is not None, module
        assert spec.origin is not None, module
        sources.append(ast.dump(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))))
    return hashlib.sha256("".join(sources).encode()).hexdigest()


def keep(folder: Path, key: str, model: Path, record: Mapping[str, Any]) -> None:
    """`folder / key` with a copy of the model's file and the record of its training."""
    with whole(folder / key) as temporary:
        temporary.mkdir()
        shutil.copyfile(model, temporary / "model.safetensors")
        write_json(temporary / "record.json", record)


def restore(folder: Path, key: str, model: Path) -> dict[str, Any] | None:
    """The record of a finished training, its weights copied to `model`; None if there is none."""
    entry = folder / key
    if not all((entry / name).exists() for name in ("record.json", "model.safetensors")):
        remove(entry)
        return None
    with whole(model) as temporary:
        shutil.copyfile(entry / "model.safetensors", temporary)
    record: dict[str, Any] = read_json(entry / "record.json")
    return record
