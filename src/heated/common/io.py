"""Read and write files, as a whole: a temporary name, then a rename; and the stages' paths."""

import csv
import glob
import hashlib
import io
import json
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from errno import EINVAL, EISDIR, ENOTDIR
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from heated.common.errors import InputError

MIB = 2**20  # bytes
DIGEST = "sha256"  # the key of a record's digest


def project_root() -> Path:
    """Return DVC_ROOT, which is set in DVC's temporary copies too, or the current folder."""
    return Path(os.environ.get("DVC_ROOT", ".")).resolve()


def expand_home(path: str) -> Path:
    """Return a path with the home directory in place of ~, or raise InputError."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InputError(f"{path}: {error}. Use an absolute path.") from error


def project_path(path: str) -> Path:
    """Return a path that a user set: absolute, of the home directory (~), or of the project."""
    return project_root() / expand_home(path)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path, which is renamed to `path` at the end, or removed on an error.

    The block may write a file or a folder; a folder replaces an existing one.
    """
    import psutil  # of the extra `pipeline`; reading a model does without

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    for part in path.parent.glob(f".{glob.escape(path.name)}.*.part"):  # of killed processes
        process = part.name.split(".")[-2]
        if part == temporary or (process.isdecimal() and not psutil.pid_exists(int(process))):
            remove(part)
    try:
        with rename_in_errors(temporary, path):
            yield temporary
            if temporary.is_dir() and path.is_dir():
                shutil.rmtree(path)
            temporary.replace(path)
    finally:
        remove(temporary)


@contextmanager
def rename_in_errors(old: Path, new: Path) -> Iterator[None]:
    """Let errors name the path `new`, which the user knows, in place of `old`.

    An error of the system that names no file, such as that of a full disk, gets the name `new`.
    """
    try:
        yield
    except (InputError, OSError) as error:
        names = (str(old), str(new))
        if isinstance(error, OSError) and error.errno is not None:
            error.filename = str(error.filename or new).replace(*names)
            error.filename2 = None
        else:
            error.args = tuple(a.replace(*names) if isinstance(a, str) else a for a in error.args)
        raise


def remove(path: Path) -> None:
    """Delete a file or folder if it exists."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def require_output(path: Path, stage: str) -> Path:
    """Return `path`, or raise FileNotFoundError with the stage that writes it."""
    if not path.exists():
        command = f"dvc repro, or dvc repro -s {stage}"
        raise FileNotFoundError(f"{path} is missing: the stage '{stage}' makes it ({command})")
    if path.suffix and path.is_dir():
        advice = f"Delete it and run `dvc repro`, which runs the stage '{stage}' again."
        raise InputError(f"{path}: got a folder, expected a file. {advice}")
    return path


def seed_files(folder: Path, stage: str) -> dict[int, Path]:
    """Return the files `seed-<s>.*` that a stage wrote, by seed; raise if there is none."""
    files = sorted(require_output(folder, stage).glob("seed-*.*"))
    require_output(folder / "seed-*" if not files else files[0], stage)
    return {int(path.stem.removeprefix("seed-")): path for path in files}


# The stages that write the files and folders of these names.
WRITERS = {
    "resolved": "resolve",
    "raw": "download",
    "packed": "split",
    "tuned.json": "tune",
    **dict.fromkeys(("models", "history.csv", "provenance.json"), "train"),
    "embeddings": "embed",
    **dict.fromkeys(("metrics.json", "class_scores.csv"), "evaluate"),
    "gradients.json": "gradients",
}


@contextmanager
def wrap_damage(path: Path, advice: str = "Make it again.") -> Iterator[None]:
    """Raise InputError with the path, and the stage that writes it, for any error in its bytes."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:  # on damaged bytes, readers raise about every kind there is
        of_bytes = (None, EINVAL, EISDIR, ENOTDIR)  # EINVAL: a position before the file's start
        if isinstance(error, OSError) and error.errno not in of_bytes:
            raise
        stage = next((WRITERS[part] for part in reversed(path.parts) if part in WRITERS), None)
        if stage:
            advice = f"Delete it and run `dvc repro`, which runs the stage '{stage}' again."
        reason = str(error) or type(error).__name__
        raise InputError(f"{path} is damaged ({reason}). {advice}") from error


def sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON; raise ValueError for NaN and infinity, which JSON does not have."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; raise InputError if it is damaged, or another value."""
    with wrap_damage(path):
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError(f"got {type(value).__name__}, expected a JSON object")
        return value


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write a JSON object that another stage reads, with a digest of its content."""
    write_json(path, {**record, DIGEST: record_sha256(record)})


def read_record(path: Path) -> dict[str, Any]:
    """Return what `write_record` wrote; raise InputError if it is damaged or was changed."""
    record = read_json(path)
    with wrap_damage(path):
        if record.pop(DIGEST, None) != record_sha256(record):
            raise ValueError("its content differs from its SHA-256")
    return record


def record_sha256(record: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a record as JSON; an equal one in another order has another."""
    return hashlib.sha256(json.dumps(record).encode()).hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, with unchanged line ends on every platform."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a header with every key of the rows, in order of first use, and one line per row."""
    text = io.StringIO()
    columns = dict.fromkeys(key for row in rows for key in row)
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def write_arrays(path: Path, **arrays: ArrayLike) -> None:
    """Write named arrays as .npz, without pickle; equal arrays give equal bytes.

    The headers of np.savez depend on the patch version of Python.
    """
    with atomic_write(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, values in arrays.items():
            array = np.asanyarray(values)
            entry = zipfile.ZipInfo(f"{name}.npy")  # of 1980
            entry.file_size = array.nbytes
            with archive.open(entry, "w") as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Return every array of an .npz file; raise InputError if it is damaged, or has objects."""
    with wrap_damage(path), path.open("rb") as file:
        if not zipfile.is_zipfile(file):  # np.load would advise to load objects
            raise ValueError("expected an .npz file")
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)


EMBEDDINGS = {"embeddings": ("f", 2), "labels": ("i", 1), "query": ("b", 1), "gallery": ("b", 1)}


def read_embeddings(path: Path) -> dict[str, NDArray[Any]]:
    """Return a seed's embeddings (N, D), and its labels, queries and gallery (N,).

    Raises InputError if the file is damaged, or has other arrays.
    """
    arrays = read_arrays(path)
    with wrap_damage(path):
        for name, kind in EMBEDDINGS.items():
            array = arrays[name]
            if (array.dtype.kind, array.ndim) != kind or len(array) != len(arrays["labels"]):
                raise ValueError(f"{name}: got {array.dtype} of shape {array.shape}")
        for name in ("query", "gallery"):
            if not arrays[name].any():
                raise ValueError(f"{name}: got no images")
    return {name: arrays[name] for name in EMBEDDINGS}


# Names in files of earlier versions, and their names now.
FORMER_KEYS = {
    "normalise": "normalize",
    "shift": "translate",
    "probability": "p",
    "smallest": "min_scale",
    "aspect": "max_ratio",
    "colour": "color_mode",
}
FORMER_VALUES: dict[Any, str] = {
    ("denominator", "others"): "negatives_only",
    ("color_mode", "grey"): "gray",
}


def with_current_names(settings: Any) -> Any:
    """Return settings that an earlier version wrote with the names of this one.

    >>> with_current_names({"colour": "grey", "augment": [{"name": "flip", "probability": 0.5}]})
    {'color_mode': 'gray', 'augment': [{'name': 'flip', 'p': 0.5}]}
    """
    if isinstance(settings, list):
        return [with_current_names(each) for each in settings]
    if not isinstance(settings, dict):
        return settings
    items = [(FORMER_KEYS.get(k, k), with_current_names(v)) for k, v in settings.items()]
    return {k: FORMER_VALUES.get((k, v), v) if isinstance(v, str) else v for k, v in items}


RESOLVED = Path("data/resolved")
RUNS = Path("runs")
# Settings that no output depends on, for stages that do not depend on the file.
SIDE_SETTINGS = "side_settings.json"


def raw_folder(dataset: str) -> Path:
    """Return the folder of a data set's archives."""
    return Path("data/raw") / dataset


def packed_folder(dataset: str) -> Path:
    """Return the folder of a packed data set."""
    return Path("data/packed") / dataset


def run_folder(dataset: str, method: str) -> Path:
    """Return the folder of a run: models, history, embeddings, metrics."""
    return RUNS / dataset / method


def load_settings(name: str) -> Any:
    """Return the settings in a file below data/resolved, or raise InputError if it is missing."""
    path = require_output(RESOLVED, "resolve") / name
    if not path.exists():
        known = ", ".join(sorted(each.stem for each in path.parent.glob("*.json"))) or "nothing"
        advice = "Name it in params.yaml or studies.yaml, and run `python -m stages.resolve`."
        message = f"{Path(name).parent}: got {path.stem!r}, expected one of {known}. {advice}"
        raise InputError(message)
    return read_record(path)
