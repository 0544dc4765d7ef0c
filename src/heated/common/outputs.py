"""Compare outputs with the digests that DVC recorded, and let DVC see files changed in place.

DVC trusts a file whose time, size and inode are as before, and a read-only object of
its cache, which may be the same file as an output.
"""

import hashlib
import json
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from ruamel.yaml import YAML

from heated.common.errors import InputError


def check_outputs(paths: Iterable[Path], lock: Path = Path("dvc.lock")) -> None:
    """Raise InputError for the first file or folder that differs from its digest in dvc.lock.

    DVC is made to compare it, too: the next `dvc repro` builds it again. Outputs that are not in
    dvc.lock, such as those of stages that ran by themselves, are not checked.
    """
    stages = YAML(typ="safe", pure=True).load(lock)["stages"] if lock.exists() else {}
    written: dict[str, dict[str, str]] = {}  # stages by path and digest; a former one may be left
    for name, stage in stages.items():
        for out in stage.get("outs", []):
            written.setdefault(out["path"], {})[out["md5"]] = name
    for path in (path for path in paths if path.as_posix() in written and path.exists()):
        expected, got = written[path.as_posix()], dvc_md5(path)
        if got not in expected:
            unprotect(path)
            name = [*expected.values()][-1]
            message = f"{path}: got the MD5 {got}, expected {' or '.join(expected)} of dvc.lock"
            raise InputError(f"{message}. Run `dvc repro`, which runs the stage '{name}' again.")


def dvc_md5(path: Path) -> str:
    """Return the MD5 of a file or a folder as in dvc.lock."""
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "md5").hexdigest()
    files = {file.relative_to(path).as_posix(): file for file in path.rglob("*")}
    entries = [
        {"md5": dvc_md5(file), "relpath": name}
        for name, file in sorted(files.items())
        if not file.is_dir()
    ]
    return f"{hashlib.md5(json.dumps(entries, sort_keys=True).encode()).hexdigest()}.dir"


def unprotect(path: Path) -> None:
    """Make the files of an output writable and new, so that DVC compares them with their digests.

    This includes objects of DVC's cache that are the same files.
    """
    for file in (path, *path.rglob("*")):
        if file.is_file():
            file.chmod(file.stat().st_mode | stat.S_IWUSR)
            os.utime(file)
