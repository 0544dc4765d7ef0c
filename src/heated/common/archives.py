"""Read files in zip and tar archives, without unpacking them to disk."""

import tarfile
import unicodedata
import zipfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Self

from heated.common.errors import InputError

MAX_MEMBER_BYTES = 1 << 30
MAX_HEADER_BYTES = 1 << 20  # of a tar: a long name, or attributes
MAX_RATIO = 100  # unpacked bytes of the members read to bytes of the archive
MIN_TOTAL_BYTES = 1 << 30  # an archive may always unpack to this size
BUFFER_BYTES = 1 << 20
ZIP_STARTS = (b"PK\3\4", b"PK\5\6")
LFS_START = b"version https://git-lfs"  # of a pointer in place of a file
UTF8_FLAG = 0x800
HEADER_TYPES = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
Member = tuple[str, int, Callable[[], bytes]]  # name, size in bytes, and a function that reads it


def is_archive(path: Path) -> bool:
    """Return whether a file is a zip or tar by its content, whatever its name ends in."""
    return is_zip(path) or is_tar(path)


def is_zip(path: Path) -> bool:
    """Return whether a file is a zip; a tar that ends with a zip is none."""
    with path.open("rb") as file:
        starts = file.read(4) in ZIP_STARTS
    return zipfile.is_zipfile(path) and (starts or not is_tar(path))


def is_tar(path: Path) -> bool:
    """Return whether a file begins as a tar, compressed or not."""
    try:
        with wrap_archive_errors(path), tarfile.open(path, "r|*", tarinfo=CheckedTarInfo):
            return True
    except InputError:
        return False


def require_archive(path: Path) -> Path:
    """Return the path, or raise InputError if the file is no archive, such as a saved web page."""
    if is_archive(path):
        return path
    with path.open("rb") as file:
        pointer = file.read(len(LFS_START)) == LFS_START
    advice = "Run `git lfs pull`." if pointer else "Fetch it again, or pack it as one of these."
    kind = "a pointer of Git LFS" if pointer else "a file that is damaged or no archive"
    raise InputError(f"{path}: got {kind}, expected a .zip, .tar, .tar.gz or .tgz. {advice}")


def member_names(path: Path) -> list[str]:
    """Return the names of the files in an archive, in stored order."""
    return [name for name, _, _ in iter_members(path)]


def read_members(path: Path, members: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """Yield (name, bytes) of some files, in stored order.

    Raises InputError if one is missing or there twice, or one or all of them are too large.
    """
    missing, total, limit = set(members), 0, total_limit(path)
    for name, size, content in iter_members(path):
        if name not in members:
            continue
        if name not in missing:
            raise InputError(f"{path}: got {name!r} twice, expected each name once. Pack it again.")
        missing.remove(name)
        total += size
        if size > MAX_MEMBER_BYTES or total > limit:
            got = f"{total} bytes up to the member {name!r}"
            raise InputError(
                f"{path}: got {got}, expected at most {MAX_MEMBER_BYTES} per member and {limit} in "
                f"all, {MAX_RATIO} times the archive. Leave out other files."
            )
        with wrap_archive_errors(path):
            unpacked = content()
        yield name, unpacked
    if missing:
        raise InputError(f"{path} lacks {min(missing)} and {len(missing) - 1} more of its files")


def total_limit(path: Path) -> int:
    """Return how many bytes an archive may unpack to."""
    return max(MIN_TOTAL_BYTES, MAX_RATIO * path.stat().st_size)


def read_member(path: Path, name: str) -> bytes:
    """Return the bytes of one file."""
    return dict(read_members(path, [name]))[name]


def iter_members(path: Path) -> Iterator[Member]:
    """Yield each file with a function to read it before the next one is yielded.

    Names are in Unicode's composed form, as one name may be stored in several forms. Raises
    InputError if the archive is damaged.
    """
    require_archive(path)
    with wrap_archive_errors(path):
        for name, size, content in (zip_files if is_zip(path) else tar_files)(path):
            path_inside = str(PurePosixPath(name.lstrip("/")))
            yield unicodedata.normalize("NFC", path_inside), size, content


def zip_files(path: Path) -> Iterator[Member]:
    """Yield the files of a zip. In one without any slash, backslashes separate directories."""
    with path.open("rb", buffering=BUFFER_BYTES) as file, zipfile.ZipFile(file) as archive:
        infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
        names = [zip_name(info) for info in infos]
        if not any("/" in name for name in names):
            names = [name.replace("\\", "/") for name in names]
        for name, info in zip(names, infos, strict=True):
            if not name.endswith("/"):
                yield name, info.file_size, partial(archive.read, info)


def zip_name(info: zipfile.ZipInfo) -> str:
    """Return a member's name; the Mac stores UTF-8 without the flag that says so."""
    if info.flag_bits & UTF8_FLAG:
        return info.filename
    try:
        return info.filename.encode("cp437").decode("utf-8")
    except UnicodeError:
        return info.filename


class CheckedTarInfo(tarfile.TarInfo):
    """A header that `tarfile` would read into memory whatever its size, or end at silently."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Parse a block; raise ReadError if it is neither a header nor the archive's end."""
        try:
            info = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if buf and not any(buf):
                raise
            raise tarfile.ReadError(f"{error}; it may be cut off") from error
        if info.type in HEADER_TYPES and info.size > MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"got a header of {info.size} bytes")
        return info


def tar_files(path: Path) -> Iterator[Member]:
    """Yield the files of a tar. Links, without bytes of their own, are empty files."""
    limit = total_limit(path)
    with tarfile.open(path, "r|*", tarinfo=CheckedTarInfo) as archive:
        for info in archive:
            if info.offset_data + info.size > limit:  # passing over it would take long
                raise InputError(f"{path}: got {info.size} bytes in {info.name!r}, above {limit}.")
            file = archive.extractfile(info) if info.isreg() else None
            if file is not None:
                yield info.name, info.size, file.read
            elif not info.isdir():
                yield info.name, 0, partial(refuse_link, path, info.name)


def refuse_link(path: Path, name: str) -> bytes:
    """Raise InputError for a link or a device."""
    raise InputError(f"{path}: got the link or device {name!r}, expected files. Pack the files.")


@contextmanager
def wrap_archive_errors(path: Path) -> Iterator[None]:
    """Raise InputError, with the archive's path, for a damaged or unsupported archive."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:  # on damaged bytes, the readers raise about every kind there is
        if isinstance(error, OSError) and error.errno:  # of the disk
            raise
        if isinstance(error, RuntimeError):  # zipfile's for a password or an unknown method
            raise InputError(
                f"{path} cannot be unpacked ({error}), expected a tar, or a zip that is stored or "
                "deflated and has no password. Pack it so, or unpack it."
            ) from error
        raise InputError(f"{path} is damaged or no archive ({error}). Fetch it again.") from error
