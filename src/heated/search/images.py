"""Image files as a user names them: single ones, folders at any depth, zip and tar archives."""

import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from heated.common import archives
from heated.common.errors import InputError
from heated.datasets.image_folder import SUFFIXES, is_image


class Image(NamedTuple):
    """A file, absolute, or a member of an archive."""

    path: str
    member: str | None = None

    def __str__(self) -> str:
        return self.path if self.member is None else f"{self.path}/{self.member}"


def listed(places: Sequence[Path]) -> list[Image]:
    """The images at the places, each once, a folder's in the order of their names and an archive's
    as they are stored; InputError for a place without any."""
    found = [image for place in places for image in at(place.absolute())]
    for image in found:
        try:
            str(image).encode()
        except UnicodeEncodeError:
            raise InputError(f"{str(image)!r}: a name that is not UTF-8; rename the file") from None
    return list(dict.fromkeys(found))


def at(place: Path) -> list[Image]:
    """The images at one place."""
    if place.is_dir():
        files = sorted(path for path in place.rglob("*") if path.is_file())
        below = ((path, PurePosixPath(path.relative_to(place).as_posix())) for path in files)
        found = [Image(str(path)) for path, name in below if is_image(name)]
    elif place.is_file() and is_image(PurePosixPath(place.name)):
        found = [Image(str(place))]
    elif place.is_file() and (zipfile.is_zipfile(place) or tarfile.is_tarfile(place)):
        names = archives.names(place)
        found = [Image(str(place), name) for name in names if is_image(PurePosixPath(name))]
    else:
        told = "neither an image nor a zip or tar" if place.exists() else "not there"
        raise InputError(f"{place} is {told}; allowed: image files, folders and archives of them")
    if not found:
        raise InputError(f"{place} holds no images; allowed are the endings {', '.join(SUFFIXES)}")
    return found


def contents(images: Sequence[Image]) -> Iterator[tuple[Image, bytes]]:
    """Each image with its file's bytes, in their order; those of an archive lie together, in the
    order they are stored."""
    for place, group in groupby(images, key=lambda image: image.member and image.path):
        if place is None:
            yield from ((image, Path(image.path).read_bytes()) for image in group)
        else:
            members = [str(image.member) for image in group]
            for name, content in archives.read(Path(place), members):
                yield Image(place, name), content
