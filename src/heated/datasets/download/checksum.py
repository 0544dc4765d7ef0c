"""A file as its publishers describe it, and whether bytes on the disk are that file."""

import gzip
import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from heated.datasets.download.http import Refusal


@dataclass(frozen=True)
class Checksum:
    """A digest in hexadecimal; `unpacked`: of the bytes inside a .gz, whose packing may differ."""

    algorithm: Literal["sha256", "md5"]
    digest: str
    unpacked: bool = False

    def __str__(self) -> str:
        return f"{self.kind} {self.digest}"

    @property
    def kind(self) -> str:
        """What it is a checksum of, in words."""
        name = {"sha256": "SHA-256", "md5": "MD5"}[self.algorithm]
        return f"{name} of the unpacked bytes" if self.unpacked else name


@dataclass(frozen=True)
class RemoteFile:
    """A file by name; `addresses` are URLs, or `package:name/file` for one that a package ships.

    Without a checksum its size decides, and if that is not given either, any bytes but an empty
    file. Without addresses a person fetches it from where `by_hand` says into the mirror.
    `instead`: what they may put there in place of all the set's files, under the set's name.
    """

    name: str
    checksum: Checksum | None
    addresses: tuple[str, ...] = ()
    size: int | None = None  # bytes
    by_hand: str = ""
    instead: str = ""


def right(path: Path, file: RemoteFile) -> bool:
    """Return whether the file is at `path` with the right bytes."""
    try:
        check(path, file)
    except (Refusal, FileNotFoundError):
        return False
    return True


def check(path: Path, file: RemoteFile) -> None:
    """Refusal unless the bytes at `path`, as they are on the disk, are the file's."""
    opened = gzip.open if file.checksum and file.checksum.unpacked else open
    with opened(path, "rb") as content:  # raises for a folder, and for what this user may not read
        size = path.stat().st_size
        if file.checksum is None:
            if size != file.size if file.size is not None else size == 0:
                raise Refusal(f"came {size} bytes, not {file.size or 'the file'}")
            return
        algorithm = file.checksum.algorithm
        try:
            came = hashlib.file_digest(
                content, lambda: hashlib.new(algorithm, usedforsecurity=False)
            ).hexdigest()
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise Refusal(f"came {size} bytes, which are not a whole .gz: {error}") from error
    if came != file.checksum.digest.lower():
        raise Refusal(f"came {size} bytes with {file.checksum.kind} {came}, which is not the file")
