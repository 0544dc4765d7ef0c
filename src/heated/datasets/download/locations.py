"""A file from one place: an address, a local folder or an installed package."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from heated.common.io import whole
from heated.datasets.download.checksum import RemoteFile, check
from heated.datasets.download.http import Refusal
from heated.datasets.download.partial import begun, check_room, discard, length, receive


def mirror_places(file: RemoteFile, mirror: str | None, subfolder: str) -> Sequence[str]:
    """Where a mirror may hold the file: in a folder of the data set's name, or right there."""
    if mirror is None:
        return ()
    base = mirror.rstrip("/")
    return f"{base}/{subfolder}/{file.name}", f"{base}/{file.name}"


def take(place: str, file: RemoteFile, target: Path) -> None:
    """The right file at `target` from a path, URL or package; Refusal where that has it not."""
    if place.startswith("package:"):
        copy(shipped(place), file, target)
    elif "://" in place:
        download(place, file, target)
    else:
        copy(Path(place), file, target)


def shipped(place: str) -> Path:
    """The path of `package:name/file`; the package is found, not imported, which takes seconds."""
    package, _, name = place.removeprefix("package:").partition("/")
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise Refusal(f"the package {package} is not installed")
    return Path(spec.submodule_search_locations[0]) / name


def download(address: str, file: RemoteFile, target: Path) -> None:
    """From an address, going on with the half file of an earlier call; if the whole is wrong then,
    once more from the start."""
    half = half_of(target)
    continued = begun(half, address) > 0
    receive(address, half, title=file.name, checked=file.checksum is not None)
    try:
        check(half, file)
    except Refusal:
        discard(half)
        if not continued:
            raise
        download(address, file, target)
    else:
        half.replace(target)
        discard(half)


def half_of(target: Path) -> Path:
    """Where a file is while it is not whole."""
    return target.with_name(f"{target.name}.part")


def copy(source: Path, file: RemoteFile, target: Path) -> None:
    """A copy of a local file: not a second name for it, which DVC would make read-only."""
    with readable():
        check(source, file)
    check_room(target.parent, length(source))
    with whole(target) as temporary:
        shutil.copyfile(source, temporary)
        check(temporary, file)


@contextmanager
def readable() -> Iterator[None]:
    """A Refusal where a local file cannot be read."""
    try:
        yield
    except Refusal:
        raise
    except OSError as error:
        raise Refusal(str(error)) from error
