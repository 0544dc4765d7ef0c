"""Files in zip and tar archives, read where they lie; nothing is unpacked onto the disk.

An archive is refused whole when a member could reach outside it (an absolute path, `..`, a link)
or when it grows beyond reason.
"""

import gzip
import lzma
import re
import stat
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
AHEAD = 1 << 20  # bytes that are read at a time
DRIVE = re.compile(r"[A-Za-z]:[\\/]")
DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
)
SMALL = 1 << 30  # bytes of all its files that are no matter, however small the archive


def names(path: Path) -> list[str]:
    """The files in an archive, in the order they are stored; InputError unless all are safe."""
    with refused(path):
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                found = [info.filename for info in zip_members(path, archive)]
        else:
            found = [info.name for info in tar_members(path)]
    return [str(PurePosixPath(name)) for name in found]


def read(path: Path, wanted: Collection[str], *, skip: int = 0) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of the wanted files but for the first `skip`, in the order they are stored;
    InputError when the archive is damaged or one of them is not there."""
    stored = zip_contents if zipfile.is_zipfile(path) else tar_contents
    left = set(wanted)
    with refused(path):
        for name, content in stored(path):
            if name in left:
                left.remove(name)
                if len(wanted) - len(left) > skip:
                    yield name, content()
    if left:
        raise InputError(f"{path} lacks {min(left)} and {len(left) - 1} more of its files")


def read_one(path: Path, name: str) -> bytes:
    """The bytes of one file."""
    return dict(read(path, [name]))[name]


def zip_contents(path: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Each file of a zip by name, with a function that reads it."""
    with path.open("rb", buffering=AHEAD) as file, zipfile.ZipFile(file) as archive:
        for entry in zip_members(path, archive):
            yield str(PurePosixPath(entry.filename)), partial(archive.read, entry)


def tar_contents(path: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Each file of a tar by name, with a function that reads it before the next one comes."""
    with tarfile.open(path, "r|*") as archive:
        for member in archive:
            file = archive.extractfile(member)
            if file is not None:
                yield str(PurePosixPath(member.name)), file.read


def zip_members(path: Path, archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The files of an opened zip in the order they are stored, each of them safe."""
    total, members = 0, []
    for info in sorted(archive.infolist(), key=lambda info: info.header_offset):
        kind = stat.S_IFMT(info.external_attr >> 16)
        linked = kind not in (0, stat.S_IFREG, stat.S_IFDIR)
        total = counted(path, info.filename, info.file_size, total, linked=linked)
        if not info.is_dir():
            members.append(info)
    return members


def tar_members(path: Path) -> list[tarfile.TarInfo]:
    """The files of a tar, compressed or not, in the order they are stored, each of them safe."""
    total, members = 0, []
    with tarfile.open(path, "r|*") as archive:
        for info in archive:
            linked = not (info.isreg() or info.isdir())
            total = counted(path, info.name, info.size, total, linked=linked)
            if info.isreg():
                members.append(info)
    return members


def counted(path: Path, name: str, size: int, total: int, *, linked: bool) -> int:
    """Bytes of all members so far with this one; InputError when it is not safe."""
    inside = name.replace("\\", "/")
    if inside.startswith("/") or ".." in inside.split("/") or DRIVE.match(name):
        raise InputError(f"{path}: the member {name!r} reaches outside the archive; it is refused")
    if linked:
        raise InputError(f"{path}: the member {name!r} is a link or device; only files are allowed")
    total += size
    grown = total > SMALL and total > LARGEST_GROWTH * path.stat().st_size
    if size > LARGEST_MEMBER or grown:
        raise InputError(
            f"{path}: {total} bytes up to the member {name!r}, from an archive of "
            f"{path.stat().st_size}; allowed: {LARGEST_MEMBER} a member, and of all "
            f"{LARGEST_GROWTH} times the archive"
        )
    return total


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
