"""A data set: its files, and how they are read."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from heated.downloading import RemoteFile
from heated.samples import Samples


@dataclass(frozen=True)
class Source:
    """The files by name, addresses and checksum, and `read(folder with the files) -> Samples`."""

    files: tuple[RemoteFile, ...]
    read: Callable[[Path], Samples]
