"""In-Shop Clothes Retrieval: 52,712 photographs of 7,982 clothes; queries are looked for in a
gallery apart from them.

Source: Z. Liu, P. Luo, S. Qiu, X. Wang, X. Tang, DeepFashion, CVPR 2016. By hand: its licence is
agreed to on the project's page, and no checksums are published.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np

from heated.common import archives
from heated.common.errors import InputError
from heated.common.samples import Samples, Split
from heated.datasets.base import Source, archive
from heated.datasets.download import RemoteFile
from heated.datasets.image_folder import counted, listed, understood

PARTITION = "list_eval_partition.txt"
PARTS = ("train", "query", "gallery")
BY_HAND = (
    "the DeepFashion project's page, In-shop Clothes Retrieval Benchmark: Img/img.zip and "
    "Eval/list_eval_partition.txt"
)


def reader(**counts: tuple[int, int]) -> Callable[[Path], Samples]:
    """A reader that holds the set to these counts."""

    def read(folder: Path) -> Samples:
        place = archive(folder)
        names = archives.names(place)
        with understood(folder, PARTITION):
            rows = table(partition(folder, place, names).decode())
        unknown = {part for _, _, part in rows} - set(PARTS)
        if unknown:
            came, allowed = ", ".join(sorted(unknown)), ", ".join(PARTS)
            raise InputError(f"{PARTITION}: came the parts {came}; allowed: {allowed}")
        above = next((n.partition("img/")[0] for n in names if "img/" in n), "")
        samples = listed({place: names}, {f"{above}{path}": item for path, item, _ in rows})
        told = np.array([part for _, _, part in rows])
        masks = {part: told == part for part in PARTS}
        return counted(replace(samples, split=Split(**masks)), "In-Shop", **counts)

    return read


def partition(folder: Path, place: Path, names: list[str]) -> bytes:
    """The list as it lies beside the archive or, in a user's own copy, inside."""
    beside = folder / PARTITION
    if beside.exists():
        return beside.read_bytes()
    inside = next((name for name in names if PurePosixPath(name).name == PARTITION), PARTITION)
    return archives.read_one(place, inside)


def table(text: str) -> list[tuple[str, str, str]]:
    """Path, item and part of each image, sorted, of a list that a count and a heading begin."""
    rows = (line.split() for line in text.splitlines()[2:] if line.strip())
    return sorted((path, item, part) for path, item, part in rows)


SOURCE = Source(
    files=[
        RemoteFile("img.zip", None, by_hand=BY_HAND),
        RemoteFile(PARTITION, None, by_hand=BY_HAND),
    ],
    read=reader(train=(25882, 3997), query=(14218, 3985), gallery=(12612, 3985)),
    copies=["in-shop", "In-shop"],
)
