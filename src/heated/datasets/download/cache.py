"""Fetched files, kept once per checksum, so that no data set fetches the same bytes again."""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from heated.datasets.download.checksum import RemoteFile, check, right
from heated.datasets.download.http import Refusal, begun, check_room, discard, length, receive

GB = 10**9
OURS = re.compile(r"(md5|sha256)-[0-9a-f]+(\.part(\.json)?)?")  # anything else is not removed


@dataclass(frozen=True)
class Cache:
    """A folder of files by checksum; the oldest are removed from it beyond `limit_gb`.

    It also holds partial files. Several projects and processes may share it.
    """

    folder: Path
    limit_gb: float

    def path(self, file: RemoteFile) -> Path:
        """Return the file's path, by its checksum; one without a checksum is not kept."""
        known = file.checksum
        return self.folder / (f"{known.algorithm}-{known.digest.lower()}" if known else file.name)

    def missing_bytes(self, file: RemoteFile) -> int:
        """Return how many bytes must be fetched, as far as the size is known."""
        kept = self.path(file)
        have = length(kept) or length(part(kept))
        return max((file.size or 0) - have, 0)

    def provide(self, file: RemoteFile, target: Path, fetch: Callable[[Path], None]) -> None:
        """Write the right file to `target`: from the cache, or else by `fetch`, which is kept."""
        self.folder.mkdir(parents=True, exist_ok=True)
        kept = self.path(file)
        with FileLock(lock(kept)):
            if not self.has(file):
                fetch(kept)
                discard(part(kept))
            if file.checksum:
                link(kept, target)
            else:
                shutil.move(kept, target)
        self.shrink()

    def has(self, file: RemoteFile) -> bool:
        """Whether the right file is kept."""
        kept = self.path(file)
        return file.checksum is not None and kept.exists() and right(kept, file)

    def shrink(self) -> None:
        """Remove the oldest files that no process uses until the rest is within the limit."""
        files = sorted(self.files())
        excess = sum(size for _, size, _ in files) - self.limit_gb * GB
        for _, size, path in files:
            if excess <= 0:
                return
            with suppress(Timeout, OSError), FileLock(lock(path), timeout=0):
                path.unlink(missing_ok=True)
                excess -= size

    def files(self) -> Iterator[tuple[float, int, Path]]:
        """Yield time, bytes and path of each file; another process may be removing it."""
        for path in self.folder.iterdir():
            with suppress(OSError):
                if OURS.fullmatch(path.name) and path.is_file():
                    yield path.stat().st_mtime, path.stat().st_size, path


def part(kept: Path) -> Path:
    """Return where a file is until it is complete."""
    return kept.with_name(f"{kept.name}.part")


def lock(path: Path) -> Path:
    """Return the lock of a file, its partial file and that one's origin."""
    return path.with_name(path.name.removesuffix(".json").removesuffix(".part") + ".lock")


def link(kept: Path, target: Path) -> None:
    """Give a kept file a second name, or copy it where that is impossible."""
    try:
        os.link(kept, target)
    except OSError:  # another file system, or one without links
        check_room(target.parent, length(kept))
        shutil.copyfile(kept, target)


def complete(address: str, file: RemoteFile, kept: Path) -> None:
    """Fetch a file; if it is wrong after a resumed download, once more from the start."""
    partial = part(kept)
    resumed = begun(partial, address) > 0
    receive(address, partial, title=file.name, checked=file.checksum is not None)
    try:
        check(partial, file)
    except Refusal:
        discard(partial)
        if not resumed:
            raise
        complete(address, file, kept)
    else:
        partial.replace(kept)
