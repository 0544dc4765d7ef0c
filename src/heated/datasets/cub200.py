"""CUB-200-2011: 11,788 photographs of 200 bird species; the first 100 train.

Source: C. Wah, S. Branson, P. Welinder, P. Perona, S. Belongie, CNS-TR-2011-001, Caltech, 2011.
"""

from collections.abc import Callable
from pathlib import Path

from heated.common import archives
from heated.common.samples import Samples
from heated.datasets.base import Source, archive
from heated.datasets.download import Checksum, RemoteFile
from heated.datasets.image_folder import counted, listed, parted, understood

ROOT = "CUB_200_2011"
TABLES = ("images.txt", "image_class_labels.txt")
TRAINING_CLASSES = 100


def reader(**counts: tuple[int, int]) -> Callable[[Path], Samples]:
    """A reader of the set in its own layout that holds it to these counts."""

    def read(folder: Path) -> Samples:
        """By images.txt (`number path`) and image_class_labels.txt (`number class`), in the order
        of the images' numbers, which is that of the classes."""
        place = archive(folder)
        with understood(place, " or ".join(TABLES)):
            paths, labels = tables(place)
            names = {path: path.split("/")[0] for _, path in sorted(paths.items())}
            first = {
                names[paths[image]] for image, label in labels.items() if label <= TRAINING_CLASSES
            }
        members = {f"{ROOT}/images/{path}": name for path, name in names.items()}
        samples = listed({place: archives.names(place)}, members)
        return counted(parted(samples, first.__contains__), "CUB-200-2011", **counts)

    return read


def tables(place: Path) -> tuple[dict[int, str], dict[int, int]]:
    """By the number of each image: its path, and its class."""
    wanted = [f"{ROOT}/{table}" for table in TABLES]
    texts = {name: content.decode() for name, content in archives.read(place, wanted)}
    paths, labels = (
        {int(number): value for number, value in map(str.split, texts[name].splitlines())}
        for name in wanted
    )
    return paths, {image: int(label) for image, label in labels.items()}


SOURCE = Source(
    files=[
        RemoteFile(
            "CUB_200_2011.tgz",
            Checksum("sha256", "0c685df5597a8b24909f6a7c9db6d11e008733779a671760afef78feb49bf081"),
            ("https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",),
            size=1_150_585_339,
        ),
    ],
    read=reader(train=(5864, 100), query=(5924, 100)),
    copies=[ROOT],
)
