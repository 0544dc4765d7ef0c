"""Files from a mirror or the addresses of a data set, accepted by their SHA-256 only."""

import os
import urllib.request
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from typing import IO, cast

from tqdm import tqdm

from heated.files import project_root, sha256, whole

TIMEOUT = 30  # seconds without a byte


class DownloadError(OSError):
    """A file that no place gave with the right checksum."""


@dataclass(frozen=True)
class RemoteFile:
    """A file by name; `addresses` are URLs, or `package:name/file` for one that a package ships."""

    name: str
    sha256: str
    addresses: tuple[str, ...]


def mirror_from(parameter: str | None) -> str | None:
    """HEATED_MIRROR if it is set, else the parameter; a relative folder starts at the project."""
    mirror = os.environ.get("HEATED_MIRROR") or parameter
    if mirror is None or "://" in mirror:
        return mirror
    return str(project_root() / mirror)


def fetch(file: RemoteFile, folder: Path, *, mirror: str | None, subfolder: str) -> Path:
    """`folder / file.name` with the right bytes, from the first place that has them.

    Places: the mirror's `subfolder`, the mirror itself, then the file's own addresses.
    DownloadError lists what each of them answered; nothing is left under the file's name then.
    """
    target = folder / file.name
    if target.exists() and sha256(target) == file.sha256:
        return target
    answers = []
    for place in (*mirror_places(file, mirror, subfolder), *file.addresses):
        try:
            with whole(target) as temporary:
                copy(place, temporary, title=file.name)
                check(temporary, file)
            return target
        except (OSError, HTTPException) as error:
            answers.append(f"{place}: {error}")
    raise DownloadError(
        "\n  ".join(
            [
                f"{file.name} could not be had with SHA-256 {file.sha256}:",
                *answers,
                "Put the file into a folder, and name that in HEATED_MIRROR or download.mirror.",
            ]
        )
    )


def mirror_places(file: RemoteFile, mirror: str | None, subfolder: str) -> Sequence[str]:
    """Where a mirror may hold the file: in a folder of the data set's name, or right there."""
    if mirror is None:
        return ()
    base = mirror.rstrip("/")
    return f"{base}/{subfolder}/{file.name}", f"{base}/{file.name}"


def copy(place: str, target: Path, *, title: str) -> None:
    """The bytes at `place` (a path, URL or package resource) written to `target`."""
    bar = tqdm(desc=title, unit="B", unit_scale=True, disable=None)
    with closing(opened(place)) as source, target.open("wb") as sink, bar:
        while chunk := source.read(1 << 20):
            sink.write(chunk)
            bar.update(len(chunk))


def opened(place: str) -> IO[bytes]:
    """A place's bytes, to be read."""
    if place.startswith("package:"):
        package, _, name = place.removeprefix("package:").partition("/")
        spec = find_spec(package)  # found, not imported: that would take seconds
        if spec is None or not spec.submodule_search_locations:
            raise DownloadError(f"the package {package} is not installed")
        return (Path(spec.submodule_search_locations[0]) / name).open("rb")
    if "://" in place:
        return cast(IO[bytes], urllib.request.urlopen(place, timeout=TIMEOUT))
    return Path(place).open("rb")


def check(path: Path, file: RemoteFile) -> None:
    """DownloadError unless the bytes at `path` are the file's."""
    came = sha256(path)
    if came != file.sha256:
        raise DownloadError(
            f"came {path.stat().st_size} bytes with SHA-256 {came}, which is not the file"
        )
