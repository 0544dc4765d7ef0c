"""Cars196: 16,185 photographs of 196 models of cars, the official training and test parts
together; the first 98 classes train.

Source: J. Krause, M. Stark, J. Deng, L. Fei-Fei, 3dRR workshop, 2013. Its hosts are gone.
"""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path, PurePosixPath

from scipy.io import loadmat

from heated import archives
from heated.downloading import Checksum, RemoteFile
from heated.samples import Samples
from heated.sources.images import counted, in_directories, listed, parted
from heated.sources.source import Source, archive

ANNOTATIONS = "cars_annos.mat"
TRAINING_CLASSES = 98
BY_HAND = (
    "the archive of the original site, or a copy with a directory a class, as a folder or zip "
    "named cars196"
)


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
    """By the MAT file: an entry an image, with `relative_im_path` and `class` from 1 on, and the
    names of the classes."""
    table = loadmat(BytesIO(annotations), squeeze_me=True)
    class_names = [str(name) for name in table["class_names"]]
    entries = zip(
        table["annotations"]["relative_im_path"], table["annotations"]["class"], strict=True
    )
    classes = {str(path): int(number) for path, number in entries}
    above = prefix(names, next(iter(classes)))
    by_number = sorted(classes.items(), key=lambda pair: (pair[1], pair[0]))
    ordered = {f"{above}{path}": class_names[number - 1] for path, number in by_number}
    return parted(listed({place: names}, ordered), set(class_names[:TRAINING_CLASSES]).__contains__)


def by_class(place: Path) -> Samples:
    """By the name of each image's directory; the names' order is that of the official numbers."""
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
        ),
        RemoteFile(
            ANNOTATIONS, Checksum("md5", "b407c6086d669747186bd1d764ff9dbc"), by_hand=BY_HAND
        ),
    ],
    read=reader(train=(8054, 98), query=(8131, 98)),
    copies=["cars196", "car196", "stanford_cars", "car_data"],
)
