"""Images that a user names: files, folders at any depth, zip and tar archives."""

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
    """The absolute path of an image file, or of an archive and its member."""

    path: str
    member: str | None = None

    def __str__(self) -> str:
        return self.path if self.member is None else f"{self.path}/{self.member}"


def list_images(paths: Sequence[Path]) -> list[Image]:
    """List the images at the paths, each once: a folder's by name, an archive's as stored.

    Raises InputError if a path has no images, or a name is not UTF-8.
    """
    images: list[Image] = []
    for path in map(Path.absolute, paths):
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.is_file())
            names = [PurePosixPath(file.relative_to(path).as_posix()) for file in files]
            pairs = zip(files, names, strict=True)
            found = [Image(str(file)) for file, name in pairs if is_image(name)]
        elif path.is_file() and is_image(PurePosixPath(path.name)):
            found = [Image(str(path))]
        elif path.is_file() and (zipfile.is_zipfile(path) or tarfile.is_tarfile(path)):
            members = archives.member_names(path)
            found = [Image(str(path), name) for name in members if is_image(PurePosixPath(name))]
        else:
            problem = "is not an image, zip or tar" if path.exists() else "does not exist"
            raise InputError(f"{path} {problem}, expected image files, folders or archives of them")
        if not found:
            raise InputError(f"{path} has no images, expected files that end in {SUFFIXES}")
        images += found
    for image in images:
        if any("\ud800" <= letter <= "\udfff" for letter in str(image)):
            raise InputError(f"{str(image)!r}: the name is not UTF-8. Rename the file.")
    return list(dict.fromkeys(images))


def read_images(images: Sequence[Image]) -> Iterator[tuple[Image, bytes]]:
    """Yield images and the bytes of their files, given an archive's members as it stores them."""
    for archive, group in groupby(images, key=lambda image: image.member and image.path):
        if archive is None:
            yield from ((image, Path(image.path).read_bytes()) for image in group)
        else:
            members = [str(image.member) for image in group]
            for name, content in archives.read_members(Path(archive), members):
                yield Image(archive, name), content
