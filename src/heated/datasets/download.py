"""Download a data set's files and verify their checksums.

Sources, in order: the cache, a mirror (a folder or a URL), the file's own URLs.
"""

import gzip
import hashlib
import os
import re
import shutil
import sys
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

from filelock import FileLock, Timeout

from heated.common import archives
from heated.common.errors import redact_url
from heated.common.io import atomic_write, project_path
from heated.datasets.http import (
    DownloadFailed,
    check_free_space,
    discard,
    fetch_url,
    file_size,
    resumable_bytes,
)

CACHED_NAME = re.compile(r"(md5|sha256)-[0-9a-f]+(\.part(\.json)?)?")  # no other file is deleted


@dataclass(frozen=True)
class Checksum:
    """A digest in hexadecimal, if `unpacked` of the bytes inside a .gz: compression may vary."""

    algorithm: Literal["sha256", "md5"]
    digest: str
    unpacked: bool = False

    def __str__(self) -> str:
        name = {"sha256": "SHA-256", "md5": "MD5"}[self.algorithm]
        return f"{name}{' of the unpacked bytes' if self.unpacked else ''} {self.digest}"


@dataclass(frozen=True)
class RemoteFile:
    """A file of a data set, known by its checksum, else its size; else any but an empty one."""

    name: str
    checksum: Checksum | None
    addresses: Sequence[str] = ()  # URLs, or package:name/file inside an installed package
    size: int | None = None  # bytes
    by_hand: str = ""  # where the user gets a file without addresses, to put into the mirror
    instead: str = ""  # a replacement of all files of the data set, to put into the mirror

    def verify(self, path: Path) -> None:
        """Raise DownloadFailed if the bytes at `path` are not this file's."""
        packed = self.checksum is not None and self.checksum.unpacked
        # raises OSError for a folder, and for a file without read permission
        with (gzip.open if packed else open)(path, "rb") as content:
            size = path.stat().st_size
            if self.checksum is None:
                if size != self.size if self.size is not None else size == 0:
                    raise DownloadFailed(f"got {size} bytes, expected {self.size or 'the file'}")
                self.verify_kind(path)
                return
            new = partial(hashlib.new, self.checksum.algorithm, usedforsecurity=False)
            try:
                digest = hashlib.file_digest(content, new).hexdigest()
            except (gzip.BadGzipFile, EOFError, zlib.error) as error:
                raise DownloadFailed(
                    f"got {size} bytes, expected a complete .gz file: {error}"
                ) from error
        if digest != self.checksum.digest.lower():
            actual = replace(self.checksum, digest=digest)
            raise DownloadFailed(f"got {size} bytes with {actual}, which is not the file")

    def verify_kind(self, path: Path) -> None:
        """Raise DownloadFailed for a page or a pointer that was saved in place of the file."""
        with path.open("rb") as content:
            start = content.read(len(archives.LFS_START))
        if self.name.endswith((".zip", ".tgz")):
            is_right = archives.is_archive(path)
        else:
            is_right = start != archives.LFS_START and not start.lstrip().startswith(b"<")
        if not is_right:
            raise DownloadFailed(f"got a file that begins with {start[:15]!r}, which is not it")

    def matches_checksum(self, path: Path) -> bool:
        """Return whether `path` exists and has this file's bytes."""
        try:
            self.verify(path)
        except (DownloadFailed, FileNotFoundError):
            return False
        return True


@dataclass(frozen=True)
class Cache:
    """A folder of downloaded files by checksum, so that nothing is fetched twice.

    It also holds partial files. Several projects and processes may share it. Beyond `limit_gb` the
    oldest files are deleted.
    """

    folder: Path
    limit_gb: float

    def path(self, file: RemoteFile) -> Path:
        """Return the file's path; without a checksum it is only a temporary one."""
        known = file.checksum
        return self.folder / (f"{known.algorithm}-{known.digest.lower()}" if known else file.name)

    def has(self, file: RemoteFile) -> bool:
        """Return whether the file is in the cache, with the right bytes."""
        path = self.path(file)
        return file.checksum is not None and path.exists() and file.matches_checksum(path)

    def missing_bytes(self, file: RemoteFile) -> int:
        """Return how many bytes must be fetched, 0 if the file's size is unknown."""
        path = self.path(file)
        return max((file.size or 0) - (file_size(path) or file_size(Path(f"{path}.part"))), 0)

    def provide(self, file: RemoteFile, target: Path, fetch: Callable[[Path], None]) -> None:
        """Write the file to `target`, from the cache or, if it is not there, by `fetch`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.path(file)
        with FileLock(lock_path(path)):
            if not self.has(file):
                fetch(path)
                discard(Path(f"{path}.part"))
            if file.checksum is None:
                shutil.move(path, target)
            else:
                try:
                    os.link(path, target)
                except OSError:  # another file system, or one without links
                    check_free_space(target.parent, file_size(path))
                    shutil.copyfile(path, target)
        self.shrink()

    def shrink(self) -> None:
        """Delete the oldest unlocked files until the others are within the limit."""
        entries = []
        for path in self.folder.iterdir():
            with suppress(OSError):  # another process may be deleting it
                if CACHED_NAME.fullmatch(path.name) and path.is_file():
                    entries.append((path.stat().st_mtime, path.stat().st_size, path))
        excess = sum(size for _, size, _ in entries) - self.limit_gb * 10**9
        for _, size, path in sorted(entries):
            if excess <= 0:
                return
            with suppress(Timeout, OSError), FileLock(lock_path(path), timeout=0):
                path.unlink(missing_ok=True)
                excess -= size


def lock_path(path: Path) -> Path:
    """Return the lock shared by a cached file, its partial file and the sidecar."""
    return path.with_name(path.name.removesuffix(".json").removesuffix(".part") + ".lock")


def mirror_from(parameter: str | None) -> str | None:
    """Return HEATED_MIRROR, else the parameter: a URL or a folder, which starts at the project."""
    mirror = os.environ.get("HEATED_MIRROR") or parameter
    if mirror and mirror.startswith("file://"):
        return unquote(mirror.removeprefix("file://").removeprefix("localhost"))
    return mirror if mirror is None or "://" in mirror else str(project_path(mirror))


def join_location(base: str, name: str) -> str:
    """Append a name to a folder, or to the path of a URL, which may have a query."""
    path, mark, query = base.partition("?") if "://" in base else (base, "", "")
    return f"{path.rstrip('/')}/{name}{mark}{query}"


def download_all(
    files: Sequence[RemoteFile], raw: Path, *, mirror: str | None, subfolder: str, cache: Cache
) -> Path:
    """Write the folder `raw` with exactly these files, atomically, and return it.

    Concurrent calls wait for each other. Files fetched by an interrupted call stay in the cache,
    and the next call fetches the rest. The mirror, a folder or URL, is tried before the files' own
    URLs, and its `subfolder` first. DownloadFailed has the error of each location.
    """
    bases = (join_location(mirror, subfolder), mirror) if mirror else ()
    try:
        raw.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(raw.with_name(f".{raw.name}.lock")):
            if all(file.matches_checksum(raw / file.name) for file in files):
                return raw
            with atomic_write(raw) as folder:
                folder.mkdir()
                missing = []
                for file in (file for file in files if not file.addresses):
                    try:
                        download(file, folder, bases, subfolder, cache)
                    except DownloadFailed as error:
                        missing.append(str(error))
                if missing:
                    raise DownloadFailed("\n".join(missing))
                rest = [file for file in files if file.addresses]
                check_free_space(folder, sum(map(cache.missing_bytes, rest)))
                for file in rest:
                    download(file, folder, bases, subfolder, cache)
    except DownloadFailed:
        raise
    except OSError as error:
        raise DownloadFailed(
            f"{raw}: cannot write the files: {error}.\nDownloaded files with a checksum stay in "
            f"{cache.folder}; the next run resumes there."
        ) from error
    return raw


def download(
    file: RemoteFile, folder: Path, bases: Sequence[str], subfolder: str, cache: Cache
) -> None:
    """Write `folder / file.name` from the cache or the first location with the right bytes.

    `bases` are the mirror's `subfolder` and the mirror itself, empty without a mirror.
    """
    target, errors = folder / file.name, []
    locations = [*(join_location(base, file.name) for base in bases), *file.addresses]
    for location in [""] if cache.has(file) else locations:
        try:
            if location.startswith("package:"):  # is on this machine, and needs no cache
                fetch_from(location, file, target)
            else:
                cache.provide(file, target, partial(fetch_from, location, file))
        except DownloadFailed as error:
            errors.append(f"{redact_url(location)}: {error}")
            continue
        if errors:
            first = f"{file.name}: downloaded from {redact_url(location)} after these errors"
            print("\n  ".join([first, *errors]), file=sys.stderr)
        return
    inside, base = bases or (f"FOLDER/{subfolder}", "FOLDER")
    failed = f"{file.name}: no location has it{f' with {file.checksum}' if file.checksum else ''}."
    advice = (
        f"Get it by hand{file.by_hand and f' from {file.by_hand}'}, and put it at "
        f"{redact_url(join_location(inside, file.name))}, where HEATED_MIRROR or download.mirror "
        f"is {redact_url(base).rstrip('/')}."
    )
    if file.instead:
        advice += (
            f" Or put {file.instead} at {redact_url(inside)}, in place of all the set's files."
        )
    raise DownloadFailed("\n  ".join([failed, *errors, advice]))


def fetch_from(location: str, file: RemoteFile, path: Path) -> None:
    """Write the verified file to `path` from a URL, a local file or an installed package."""
    if "://" in location:
        fetch_verified(location, file, path)
        return
    source = Path(location)
    if location.startswith("package:"):  # found without importing the package
        package, _, name = location.removeprefix("package:").partition("/")
        spec = find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise DownloadFailed(f"the package {package} is not installed")
        source = Path(spec.submodule_search_locations[0]) / name
    try:
        file.verify(source)
    except DownloadFailed:
        raise
    except OSError as error:
        raise DownloadFailed(str(error)) from error
    check_free_space(path.parent, file_size(source))
    with atomic_write(path) as copy:  # no link, since DVC would make the user's file read-only
        shutil.copyfile(source, copy)
        file.verify(copy)


def fetch_verified(url: str, file: RemoteFile, path: Path) -> None:
    """Fetch a file; if a resumed download is wrong, fetch it once more from the start."""
    part = Path(f"{path}.part")
    resumed = resumable_bytes(part, url) > 0
    fetch_url(url, part, title=file.name, has_checksum=file.checksum is not None)
    try:
        file.verify(part)
    except DownloadFailed:
        discard(part)
        if not resumed:
            raise
        fetch_verified(url, file, path)
    else:
        part.replace(path)
