"""A copy of a data set that a user keeps: an archive as it is, a folder as one zip of it."""

import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

from heated.common.errors import InputError
from heated.datasets.base import ARCHIVES, Source
from heated.datasets.download import DownloadError
from heated.datasets.download.http import check_room

EPOCH = (1980, 1, 1, 0, 0, 0)  # the same folder gives the same bytes


def found(source: Source, mirror: str | None, subfolder: str) -> Path | None:
    """Return the user's own copy of the data set, or None if its files are to be fetched.

    A copy is the first of `source.copies` that is there, with or without an archive's ending, at
    its absolute path, or in the mirror's `subfolder` or the mirror itself. There is none where the
    mirror has all the set's own files, is an address, or has neither.

    Raises:
        InputError: If a set that has no files of its own is not there.
    """
    local = mirror is not None and "://" not in mirror
    folders = [Path(mirror) / subfolder, Path(mirror)] if mirror and local else []
    names = [file.name for file in source.files]
    if names and any(all((folder / name).exists() for name in names) for folder in folders):
        return None
    wanted = [
        place
        for copy in map(Path, source.copies)
        for place in ([copy] if copy.is_absolute() else [folder / copy for folder in folders])
    ]
    own_archives = [name for name in names if name.endswith(ARCHIVES)]
    for place in wanted:
        for ending in ("", *ARCHIVES):
            path = Path(f"{place}{ending}")
            # a folder with some of the set's archives is no copy: the rest is fetched, or told
            if path.exists() and not any((path / name).exists() for name in own_archives):
                return path
    if not source.files:
        raise InputError(
            f"source.path: nothing lies at {' nor at '.join(map(str, wanted))}; allowed: a folder, "
            "zip or tar with a directory a class"
        )
    return None


def collect(place: Path, raw: Path) -> None:
    """The copy as the one archive in the folder `raw`; DownloadError where it cannot be stored."""
    try:
        stored = files(place) if place.is_dir() else [place]
        check_room(raw, sum(path.stat().st_size for path in stored))
        if place.is_dir():
            zip_folder(place, raw / f"{place.name}.zip")
        else:
            shutil.copyfile(place, raw / place.name)
    except OSError as error:
        raise DownloadError(
            f"The copy of {place} in {raw.parent} cannot be made: {error}.\n"
            "Nothing of it stays there; put that right, and start this again."
        ) from error


def zip_folder(folder: Path, target: Path) -> None:
    """A zip of all files in a folder under its name, uncompressed; equal files, equal bytes."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for path in files(folder):
            entry = zipfile.ZipInfo(str(path.relative_to(folder.parent).as_posix()), EPOCH)
            entry.external_attr = 0o644 << 16
            with path.open("rb") as source, archive.open(entry, "w", force_zip64=True) as sink:
                shutil.copyfileobj(source, sink, 1 << 20)


def files(folder: Path) -> Iterator[Path]:
    """All files below a folder, in the order of their names; InputError at a linked directory,
    which may lead round in a circle, and at a name that a zip cannot hold."""
    for path in sorted(folder.iterdir()):
        if any("\ud800" <= character <= "\udfff" for character in path.name):
            raise InputError(f"{folder}: the name {path.name!r} is not in UTF-8; rename it")
        if path.is_symlink() and path.is_dir():
            raise InputError(f"{path} is a link to a directory; put the directory itself there")
        if path.is_dir():
            yield from files(path)
        elif path.is_file():
            yield path
