"""Files in zip and tar archives, read where they lie; nothing is unpacked onto the disk.

An archive that grows beyond reason is refused.
"""

import gzip
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath

from heated.common.errors import InputError

LARGEST_MEMBER = 1 << 30  # bytes of one file in an archive
LARGEST_GROWTH = 100  # times the archive's own bytes, of all its files
SMALL = 1 << 30  # bytes of all its files that are no matter, however small the archive
AHEAD = 1 << 20  # bytes that are read at a time
DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
)
Member = tuple[str, int, Callable[[], bytes]]  # name, bytes, and a function that reads it


def names(path: Path) -> list[str]:
    """Return the files in an archive, in the order they are stored."""
    return [name for name, _ in members(path)]


def read(path: Path, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """Yield (name, bytes) of the wanted files, in the order they are stored.

    Raises:
        InputError: If the archive is damaged or lacks one of them.
    """
    left = set(wanted)
    for name, content in members(path):
        if name in left:
            left.remove(name)
            with refused(path):
                found = content()
            yield name, found
    if left:
        raise InputError(f"{path} lacks {min(left)} and {len(left) - 1} more of its files")


def read_one(path: Path, name: str) -> bytes:
    """Return the bytes of one file."""
    return dict(read(path, [name]))[name]


def members(path: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Yield each file's name with a function that reads it before the next one is yielded.

    Raises:
        InputError: If the archive is damaged, or a member or all of them are too large.
    """
    total, packed = 0, path.stat().st_size
    with refused(path):
        for name, size, content in (zip_files if zipfile.is_zipfile(path) else tar_files)(path):
            total += size
            if size > LARGEST_MEMBER or total > max(SMALL, LARGEST_GROWTH * packed):
                raise InputError(
                    f"{path}: {total} bytes up to the member {name!r}, from an archive of "
                    f"{packed}; allowed: {LARGEST_MEMBER} a member, and of all "
                    f"{LARGEST_GROWTH} times the archive"
                )
            yield str(PurePosixPath(name)), content


def zip_files(path: Path) -> Iterator[Member]:
    """Yield the files of a zip."""
    with path.open("rb", buffering=AHEAD) as file, zipfile.ZipFile(file) as archive:
        for info in sorted(archive.infolist(), key=lambda info: info.header_offset):
            if not info.is_dir():
                yield info.filename, info.file_size, partial(archive.read, info)


def tar_files(path: Path) -> Iterator[Member]:
    """Yield the files of a tar, compressed or not; InputError at a link, which has no bytes."""
    with tarfile.open(path, "r|*") as archive:
        for info in archive:
            file = archive.extractfile(info) if info.isreg() else None
            if file is not None:
                yield info.name, info.size, file.read
            elif not info.isdir():
                raise InputError(
                    f"{path}: the member {info.name!r} is a link or device; only files are allowed"
                )


@contextmanager
def refused(path: Path) -> Iterator[None]:
    """Damage met inside, or a kind of packing that is not read, becomes an InputError that names
    the archive."""
    try:
        yield
    except DAMAGE as error:
        raise InputError(f"{path} is damaged or no archive ({error}); fetch it again") from error
    except RuntimeError as error:  # as zipfile tells a password and an unknown method
        raise InputError(
            f"{path} cannot be unpacked ({error}); allowed: a zip that is stored or deflated and "
            "has no password, or a tar; pack it so, or unpack it"
        ) from error
