"""A data set: its files, and how they are read."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from heated.common.errors import InputError
from heated.common.samples import Samples
from heated.datasets.download import RemoteFile

ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz")  # how their names end


@dataclass(frozen=True)
class Source:
    """A data set's files by name, addresses and checksum, and `read(folder with the files)`.

    copies: names under which users keep the set unpacked or packed by themselves, or absolute
    paths; the first found in the mirror stands for the files, once `read` has counted its images
    and classes.
    """

    files: Sequence[RemoteFile]
    read: Callable[[Path], Samples]
    copies: Sequence[str] = ()


def archive(folder: Path) -> Path:
    """The one zip or tar in a folder with a data set's files; InputError unless there is one."""
    found = sorted(path for path in folder.iterdir() if path.name.endswith(ARCHIVES))
    if len(found) != 1:
        came = ", ".join(path.name for path in found) or "none"
        raise InputError(f"{folder}: came the archives {came}; there should be one; run download")
    return found[0]
