"""Read files in zip and tar archives, without unpacking them to disk."""

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

MAX_MEMBER_BYTES = 1 << 30
MAX_RATIO = 100  # unpacked bytes of all files to bytes of the archive
MIN_TOTAL_BYTES = 1 << 30  # an archive may always unpack to this size
BUFFER_BYTES = 1 << 20
COMPRESSION_ERRORS = (gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError)
Member = tuple[str, int, Callable[[], bytes]]  # name, size in bytes, and a function that reads it


def member_names(path: Path) -> list[str]:
    """Return the names of the files in an archive, in stored order."""
    return [name for name, _ in iter_members(path)]


def read_members(path: Path, members: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """Yield (name, bytes) of some files, in stored order; raise InputError if one is missing."""
    missing = set(members)
    for name, content in iter_members(path):
        if name in missing:
            missing.remove(name)
            with wrap_archive_errors(path):
                unpacked = content()
            yield name, unpacked
    if missing:
        raise InputError(f"{path} lacks {min(missing)} and {len(missing) - 1} more of its files")


def read_member(path: Path, name: str) -> bytes:
    """Return the bytes of one file."""
    return dict(read_members(path, [name]))[name]


def iter_members(path: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Yield each file's name with a function to read it before the next one is yielded.

    Raises InputError if the archive is damaged, or a file or all of them are too large.
    """
    total, packed = 0, path.stat().st_size
    with wrap_archive_errors(path):
        for name, size, content in (zip_files if zipfile.is_zipfile(path) else tar_files)(path):
            total += size
            if size > MAX_MEMBER_BYTES or total > max(MIN_TOTAL_BYTES, MAX_RATIO * packed):
                got = f"{total} bytes up to the member {name!r} from an archive of {packed}"
                limits = f"{MAX_MEMBER_BYTES} per member, and in all {MAX_RATIO} times the archive"
                raise InputError(f"{path}: got {got}, expected at most {limits}.")
            yield str(PurePosixPath(name)), content


def zip_files(path: Path) -> Iterator[Member]:
    """Yield the files of a zip."""
    with path.open("rb", buffering=BUFFER_BYTES) as file, zipfile.ZipFile(file) as archive:
        for info in sorted(archive.infolist(), key=lambda info: info.header_offset):
            if not info.is_dir():
                yield info.filename, info.file_size, partial(archive.read, info)


def tar_files(path: Path) -> Iterator[Member]:
    """Yield the files of a tar, or raise InputError for a link, which has no bytes."""
    with tarfile.open(path, "r|*") as archive:
        for info in archive:
            file = archive.extractfile(info) if info.isreg() else None
            if file is not None:
                yield info.name, info.size, file.read
            elif not info.isdir():
                raise InputError(f"{path}: got the link or device {info.name!r}, expected files.")


@contextmanager
def wrap_archive_errors(path: Path) -> Iterator[None]:
    """Raise InputError, with the archive's path, for a damaged or unsupported archive."""
    try:
        yield
    except (zipfile.BadZipFile, tarfile.TarError, *COMPRESSION_ERRORS) as error:
        raise InputError(f"{path} is damaged or no archive ({error}). Fetch it again.") from error
    except RuntimeError as error:  # zipfile's for a password or an unknown method
        raise InputError(
            f"{path} cannot be unpacked ({error}), expected a tar, or a zip that is stored or "
            "deflated and has no password. Pack it so, or unpack it."
        ) from error
