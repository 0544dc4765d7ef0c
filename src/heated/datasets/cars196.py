"""Cars196: 16,185 photographs of 196 models of cars, the official training and test parts
together; the first 98 classes train.

Source: J. Krause, M. Stark, J. Deng, L. Fei-Fei, 3dRR workshop, 2013. Its hosts are gone.
"""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path, PurePosixPath

from scipy.io import loadmat

from heated.common import archives
from heated.common.samples import Samples
from heated.datasets.base import Source, archive
from heated.datasets.download import Checksum, RemoteFile
from heated.datasets.image_folder import counted, in_directories, listed, parted, understood

ANNOTATIONS = "cars_annos.mat"
TRAINING_CLASSES = 98
BY_HAND = "a copy of the original site"
INSTEAD = "a copy with a directory a class (a folder, .zip or .tar)"


def reader(**counts: tuple[int, int]) -> Callable[[Path], Samples]:
    """A reader that holds the set to these counts; in the original layout (car_ims.tgz and
    cars_annos.mat, apart or together), or with a directory a class, in any number of parts."""

    def read(folder: Path) -> Samples:
        place = archive(folder)
        names = archives.names(place)
        inside = [name for name in names if PurePosixPath(name).name == ANNOTATIONS]
        if inside:
            samples = annotated(place, names, archives.read_one(place, inside[0]))
        elif (folder / ANNOTATIONS).exists():
            samples = annotated(place, names, (folder / ANNOTATIONS).read_bytes())
        else:
            samples = by_class(place)
        return counted(samples, "Cars196", **counts)

    return read


def annotated(place: Path, names: list[str], annotations: bytes) -> Samples:
    """By the MAT file, with the names of the classes in the order of their numbers."""
    with understood(place, ANNOTATIONS):
        class_names, classes = table(annotations)
        above = prefix(names, next(iter(classes)))
        ordered = {f"{above}{path}": class_names[number - 1] for path, number in classes.items()}
    return parted(listed({place: names}, ordered), set(class_names[:TRAINING_CLASSES]).__contains__)


def table(annotations: bytes) -> tuple[list[str], dict[str, int]]:
    """The names of the classes, and the class of each image, from 1 on, by its path, in the order
    of the classes: of an entry an image with `relative_im_path` and `class`."""
    told = loadmat(BytesIO(annotations), squeeze_me=True)
    entries = zip(
        told["annotations"]["relative_im_path"], told["annotations"]["class"], strict=True
    )
    classes = sorted((int(number), str(path)) for path, number in entries)
    return [str(name) for name in told["class_names"]], {path: number for number, path in classes}


def by_class(place: Path) -> Samples:
    """By the name of each image's directory. The order of the names is not that of the official
    numbers (Acura RL stands before Acura Integra there), but the first 98 are the same classes."""
    samples = in_directories(place, lambda directory: directory.name)
    return parted(samples, set(samples.class_names[:TRAINING_CLASSES]).__contains__)


def prefix(names: list[str], path: str) -> str:
    """What stands before a path in the archive: nothing, or a folder that holds it all."""
    return next((name.removesuffix(path) for name in names if name.endswith(path)), "")


SOURCE = Source(
    files=[
        RemoteFile(
            "car_ims.tgz",
            Checksum("md5", "d5c8f0aa497503f355e17dc7886c3f14"),
            by_hand=BY_HAND,
            instead=INSTEAD,
        ),
        RemoteFile(
            ANNOTATIONS,
            Checksum("md5", "b407c6086d669747186bd1d764ff9dbc"),
            by_hand=BY_HAND,
            instead=INSTEAD,
        ),
    ],
    read=reader(train=(8054, 98), query=(8131, 98)),
    copies=["cars196", "car196", "stanford_cars", "car_data"],
)
