"""A data set's files from a mirror or their addresses, accepted by their checksums only."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock

from heated.common.io import project_root, remove
from heated.datasets.download.checksum import Checksum, RemoteFile, right
from heated.datasets.download.http import Refusal
from heated.datasets.download.locations import half_of, mirror_places, take
from heated.datasets.download.partial import check_room, length

__all__ = ["Checksum", "DownloadError", "RemoteFile", "fetch", "gather", "mirror_from"]


class DownloadError(OSError):
    """Files that no place gave with the right checksum, or that could not be stored."""


def mirror_from(parameter: str | None) -> str | None:
    """HEATED_MIRROR if it is set, else the parameter; a relative folder starts at the project."""
    mirror = os.environ.get("HEATED_MIRROR") or parameter
    if mirror is None or "://" in mirror:
        return mirror
    return str(project_root() / mirror)


def gather(files: Sequence[RemoteFile], raw: Path, *, mirror: str | None, subfolder: str) -> Path:
    """The folder `raw` with all the files and nothing else, whole or not at all.

    Until then they come together in `.<raw's name>.partial` beside it, which stays after an error
    or a kill, and with which the next call goes on; of several at once one works, the others wait.
    DownloadError tells what each place answered, or why the files could not be stored.
    """
    partial = raw.with_name(f".{raw.name}.partial")
    try:
        raw.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(raw.with_name(f".{raw.name}.lock")):
            if not all(right(raw / file.name, file) for file in files):
                collect(files, partial, mirror=mirror, subfolder=subfolder)
                remove(raw)
                partial.replace(raw)
            remove(partial)
    except DownloadError:
        raise
    except OSError as error:
        raise DownloadError(
            f"{raw} cannot be made: {error}.\n"
            f"What came so far stays in {partial}; the next run goes on with it."
        ) from error
    return raw


def collect(
    files: Sequence[RemoteFile], folder: Path, *, mirror: str | None, subfolder: str
) -> None:
    """All the files in `folder`, and nothing else; those that a person must fetch are first."""
    folder.mkdir(exist_ok=True)
    missing = []
    by_hand = [file for file in files if not file.addresses]
    for file in by_hand:
        try:
            fetch(file, folder, mirror=mirror, subfolder=subfolder)
        except DownloadError as error:
            missing.append(str(error))
    if missing:
        raise DownloadError("\n".join(missing))
    others = [file for file in files if file.addresses]
    check_room(folder, sum(needed(file, folder) for file in others))
    for file in others:
        fetch(file, folder, mirror=mirror, subfolder=subfolder)
    for path in folder.iterdir():
        if path.name not in {file.name for file in files}:
            remove(path)


def needed(file: RemoteFile, folder: Path) -> int:
    """Bytes, as far as known, that the file will take up in `folder` beyond what is there of it."""
    if (folder / file.name).exists():
        return 0
    return max((file.size or 0) - length(half_of(folder / file.name)), 0)


def fetch(file: RemoteFile, folder: Path, *, mirror: str | None, subfolder: str) -> Path:
    """`folder / file.name` with the right bytes, from the first place that has them.

    Places: the mirror's `subfolder`, the mirror itself, then the file's own addresses.
    DownloadError lists what each of them answered; nothing is left under the file's name then.
    It is for one process at a time; `gather` is for several.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / file.name
    if right(target, file):
        return target
    target.unlink(missing_ok=True)
    answers = []
    for place in (*mirror_places(file, mirror, subfolder), *file.addresses):
        try:
            take(place, file, target)
        except Refusal as refusal:
            answers.append(f"{place}: {refusal}")
        else:
            if answers:
                print(
                    "\n  ".join([f"{file.name} is from {place}, after", *answers]), file=sys.stderr
                )
            return target
    lines = [f"{file.name} could not be had{f' with {file.checksum}' if file.checksum else ''}."]
    raise DownloadError("\n  ".join([*lines, *answers, advice(file, mirror, subfolder)]))


def advice(file: RemoteFile, mirror: str | None, subfolder: str) -> str:
    """Where a person gets the file, and where they put it."""
    base = mirror.rstrip("/") if mirror else "FOLDER"
    fetched = (
        f"Fetch it by hand{file.by_hand and f' from {file.by_hand}'}, and put it at "
        f"{base}/{subfolder}/{file.name}, where HEATED_MIRROR or download.mirror names {base}."
    )
    other = f" Or put {file.instead} at {base}/{subfolder}, in place of all the set's files."
    return f"{fetched}{file.instead and other}"
