"""A data set's files from a mirror or their addresses, accepted only by their checksums."""

import os
import shutil
import sys
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from filelock import FileLock

from heated.common.errors import without_secrets
from heated.common.io import project_root, whole
from heated.datasets.download.cache import Cache, complete
from heated.datasets.download.checksum import Checksum, RemoteFile, check, right
from heated.datasets.download.http import Refusal, check_room, length

__all__ = ["Cache", "Checksum", "DownloadError", "RemoteFile", "gather", "mirror_from"]


class DownloadError(OSError):
    """Files that no place gave with the right checksum, or that could not be stored."""


def mirror_from(parameter: str | None) -> str | None:
    """Return HEATED_MIRROR or else the parameter; a relative folder starts at the project."""
    mirror = os.environ.get("HEATED_MIRROR") or parameter
    if mirror is None or "://" in mirror:
        return mirror
    return str(project_root() / mirror)


def gather(
    files: Sequence[RemoteFile], raw: Path, *, mirror: str | None, subfolder: str, cache: Cache
) -> Path:
    """Write the folder `raw` with all the files and nothing else, whole or not at all.

    Of several calls at once one works, and the others wait. What an interrupted call fetched from
    an address stays in the cache, and the next call fetches the rest.

    Raises:
        DownloadError: With the answer of each place, or why the files cannot be stored.
    """
    try:
        raw.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(raw.with_name(f".{raw.name}.lock")):
            if not all(right(raw / file.name, file) for file in files):
                with whole(raw) as folder:
                    folder.mkdir()
                    fetch_all(files, folder, mirror=mirror, subfolder=subfolder, cache=cache)
    except DownloadError:
        raise
    except OSError as error:
        raise DownloadError(
            f"{raw} cannot be made: {error}.\n"
            f"What was fetched with a checksum stays in {cache.folder}; the next run resumes there."
        ) from error
    return raw


def fetch_all(
    files: Sequence[RemoteFile], folder: Path, *, mirror: str | None, subfolder: str, cache: Cache
) -> None:
    """Write all files to `folder`, first those that a person must fetch."""
    missing = []
    for file in (file for file in files if not file.addresses):
        try:
            fetch(file, folder, mirror=mirror, subfolder=subfolder, cache=cache)
        except DownloadError as error:
            missing.append(str(error))
    if missing:
        raise DownloadError("\n".join(missing))
    rest = [file for file in files if file.addresses]
    check_room(folder, sum(map(cache.missing_bytes, rest)))
    for file in rest:
        fetch(file, folder, mirror=mirror, subfolder=subfolder, cache=cache)


def fetch(
    file: RemoteFile, folder: Path, *, mirror: str | None, subfolder: str, cache: Cache
) -> None:
    """Write `folder / file.name` from the first place that has the right bytes.

    Places: the mirror's `subfolder`, the mirror itself, then the file's own addresses.

    Raises:
        DownloadError: With the answer of each place; the file is not written then.
    """
    target, answers = folder / file.name, []
    base = mirror.rstrip("/") if mirror else "FOLDER"
    mirrored = (f"{base}/{subfolder}/{file.name}", f"{base}/{file.name}")
    places = [*(mirrored if mirror else ()), *file.addresses]
    for place in [""] if cache.has(file) else places:
        try:
            if place.startswith("package:"):  # is here already, and needs no cache
                obtain(place, file, target)
            else:
                cache.provide(file, target, partial(obtain, place, file))
        except Refusal as refusal:
            answers.append(f"{without_secrets(place)}: {refusal}")
        else:
            if answers:
                came = f"{file.name} is from {without_secrets(place)}, after"
                print("\n  ".join([came, *answers]), file=sys.stderr)
            return
    base, wanted = map(without_secrets, (base, mirrored[0]))
    lines = [f"{file.name} could not be had{f' with {file.checksum}' if file.checksum else ''}."]
    advice = (
        f"Fetch it by hand{file.by_hand and f' from {file.by_hand}'}, and put it at "
        f"{wanted}, where HEATED_MIRROR or download.mirror names {base}."
    )
    if file.instead:
        advice += f" Or put {file.instead} at {base}/{subfolder}, in place of all the set's files."
    raise DownloadError("\n  ".join([*lines, *answers, advice]))


def obtain(place: str, file: RemoteFile, kept: Path) -> None:
    """Write the right file to `kept` from an address, or from a local file.

    That is a copy, and not a second name for the user's own file, which DVC would make read-only.
    """
    if "://" in place:
        complete(place, file, kept)
        return
    source = shipped(place) if place.startswith("package:") else Path(place)
    try:
        check(source, file)
    except Refusal:
        raise
    except OSError as error:
        raise Refusal(str(error)) from error
    check_room(kept.parent, length(source))
    with whole(kept) as copied:
        shutil.copyfile(source, copied)
        check(copied, file)


def shipped(place: str) -> Path:
    """Return the path of `package:name/file`, without importing the package."""
    package, _, name = place.removeprefix("package:").partition("/")
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise Refusal(f"the package {package} is not installed")
    return Path(spec.submodule_search_locations[0]) / name
