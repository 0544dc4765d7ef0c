"""A copy of a data set that a user keeps: an archive as it is, a folder as one zip of it."""

import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

from heated.errors import InputError
from heated.sources.source import Source

ENDINGS = ("", ".zip", ".tar", ".tgz", ".tar.gz")
EPOCH = (1980, 1, 1, 0, 0, 0)  # the same folder gives the same bytes


def found(source: Source, mirror: str | None, subfolder: str) -> Path | None:
    """A user's own copy of the data set: the first of `source.copies` that is there, with or
    without an archive's ending, at its absolute path, or in the mirror's `subfolder` or the mirror
    itself. None where the mirror has the set's own files, is an address, or has neither.

    InputError when a set that has no files of its own is not there.
    """
    bases = folders(mirror, subfolder)
    if any((base / file.name).exists() for base in bases for file in source.files):
        return None
    for copy in source.copies:
        for base in bases or [Path()]:
            for ending in ENDINGS:
                if (place := base / f"{copy}{ending}").exists():
                    return place
    if not source.files:
        raise InputError(
            f"source.path: nothing lies at {source.copies[0]}; allowed: a folder, zip or tar with "
            "a directory a class"
        )
    return None


def folders(mirror: str | None, subfolder: str) -> list[Path]:
    """Where a mirror that is a folder may hold a data set."""
    if mirror is None or "://" in mirror:
        return []
    return [Path(mirror) / subfolder, Path(mirror)]


def collect(place: Path, raw: Path) -> None:
    """The copy as the one archive in the folder `raw`."""
    if place.is_dir():
        zip_folder(place, raw / f"{place.name}.zip")
        return
    shutil.copyfile(place, raw / place.name)


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
    which may lead round in a circle."""
    for path in sorted(folder.iterdir()):
        if path.is_symlink() and path.is_dir():
            raise InputError(f"{path} is a link to a directory; put the directory itself there")
        if path.is_dir():
            yield from files(path)
        elif path.is_file():
            yield path
