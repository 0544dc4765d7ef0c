"""A user's copy of a data set: an archive as it is, or a folder that is stored as one zip."""

import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

from heated.common.errors import InputError
from heated.datasets.http import DownloadFailed, check_free_space
from heated.datasets.image_folder import ARCHIVE_SUFFIXES, Source

EPOCH = (1980, 1, 1, 0, 0, 0)  # the same folder gives the same bytes


def find_copy(source: Source, mirror: str | None, subfolder: str) -> Path | None:
    """Return the user's copy of the data set, None if its files are to be downloaded.

    A copy is the first of `source.copies` that exists, with or without an archive's suffix, at its
    absolute path or in the mirror's `subfolder` or the mirror. It is not used if the mirror has all
    the files of the set, or is a URL. A set without files needs a copy.
    """
    folders = []
    if mirror is not None and "://" not in mirror:
        folders = [Path(mirror) / subfolder, Path(mirror)]
    names = [file.name for file in source.files]
    if names and any(all((folder / name).exists() for name in names) for folder in folders):
        return None
    candidates = [
        path
        for copy in map(Path, source.copies)
        for path in ([copy] if copy.is_absolute() else [folder / copy for folder in folders])
    ]
    archives = [name for name in names if name.endswith(ARCHIVE_SUFFIXES)]
    for path in (
        Path(f"{path}{suffix}") for path in candidates for suffix in ("", *ARCHIVE_SUFFIXES)
    ):
        # a folder with some of the set's archives is no copy: the others are downloaded
        if path.exists() and not any((path / name).exists() for name in archives):
            return path
    if not names:
        raise InputError(
            f"source.path: found nothing at {' or '.join(map(str, candidates))}, expected a folder,"
            " zip or tar with one directory per class"
        )
    return None


def store_copy(copy: Path, raw: Path) -> None:
    """Store the copy as one archive in the folder `raw`; equal files give equal bytes."""
    try:
        stored = [*list_files(copy)] if copy.is_dir() else [copy]
        check_free_space(raw, sum(path.stat().st_size for path in stored))
        if not copy.is_dir():
            shutil.copyfile(copy, raw / copy.name)
            return
        with zipfile.ZipFile(raw / f"{copy.name}.zip", "w", zipfile.ZIP_STORED) as archive:
            for path in stored:
                entry = zipfile.ZipInfo(path.relative_to(copy.parent).as_posix(), EPOCH)
                entry.external_attr = 0o644 << 16
                with path.open("rb") as source, archive.open(entry, "w", force_zip64=True) as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)
    except OSError as error:
        raise DownloadFailed(
            f"{raw.parent}: cannot copy {copy}: {error}.\n"
            "Nothing was stored. Solve the problem and run this again."
        ) from error


def list_files(folder: Path) -> Iterator[Path]:
    """Yield all files inside a folder, sorted by name.

    A link to a directory, which may be a cycle, and a name that a zip cannot store are errors.
    """
    for path in sorted(folder.iterdir()):
        if any("\ud800" <= character <= "\udfff" for character in path.name):
            raise InputError(f"{folder}: the name {path.name!r} is not UTF-8. Rename it.")
        if path.is_symlink() and path.is_dir():
            raise InputError(f"{path}: got a link to a directory, expected the directory itself")
        if path.is_dir():
            yield from list_files(path)
        elif path.is_file():
            yield path
