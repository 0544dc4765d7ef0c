"""Files that are whole or absent: written under a temporary name beside their own, then renamed."""

import csv
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import ArrayLike, NDArray

MIB = 2**20  # bytes


def project_root() -> Path:
    """The project's folder: DVC_ROOT, which holds in DVC's temporary copies too, else this one."""
    return Path(os.environ.get("DVC_ROOT", ".")).resolve()


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary path that becomes `path` when the block ends, and is removed if it raises.

    What is written may be a file or a folder; a folder replaces the one that stood there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    for left in path.parent.glob(f".{path.name}.*.part"):  # of processes that were killed
        number = left.name.split(".")[-2]
        if left == temporary or not psutil.pid_exists(int(number)):
            remove(left)
    try:
        yield temporary
        if temporary.is_dir() and path.is_dir():
            shutil.rmtree(path)
        temporary.replace(path)
    finally:
        remove(temporary)


def remove(path: Path) -> None:
    """Nothing stands at `path` any more, were it a file or a folder."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def required(path: Path, stage: str) -> Path:
    """`path`; FileNotFoundError that names the stage which makes it when it is not there."""
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing: the stage '{stage}' makes it (dvc repro, or dvc repro -s {stage})"
        )
    return path


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Indented JSON; ValueError on NaN and infinity, which JSON does not have."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def read_json(path: Path) -> Any:
    """The value in a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_text(path: Path, text: str) -> None:
    """UTF-8 text with the line ends as they are, on every platform."""
    with whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A header with every key of the rows, in the order they come up, and a line a row."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def write_arrays(path: Path, **arrays: ArrayLike) -> None:
    """Named arrays as .npz, without pickle."""
    with whole(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Every array of an .npz file; a file that holds pickled objects is refused."""
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)
