"""MNIST: handwritten digits, 28x28, ink 255. 55,000 train and 10,000 others of the same ten classes
are tested, as in the authors' code; the first 5,000 of the training file are left out there.

Source: Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, Proc. IEEE 86 (1998).
"""

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from heated.common.archives import wrap_archive_errors
from heated.common.errors import InputError
from heated.common.samples import SEEN, Samples, Split
from heated.datasets.base import Source
from heated.datasets.download import Checksum, RemoteFile
from heated.datasets.image_folder import counted

LEFT_OUT = 5000
ADDRESSES = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
FILES = {  # MD5 of the unpacked bytes: mirrors pack them differently
    "train-images-idx3-ubyte.gz": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte.gz": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte.gz": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte.gz": "27ae3e4e09519cfbb04c329615203637",
}


def reader(left_out: int, **counts: tuple[int, int]) -> Callable[[Path], Samples]:
    """A reader that leaves out the first images of the training file, and holds to these counts."""

    def read(folder: Path) -> Samples:
        files = [idx(folder / name) for name in FILES]
        images = np.concatenate([files[0][left_out:], files[2]])
        labels = np.concatenate([files[1][left_out:], files[3]]).astype(np.int64)
        train = np.arange(len(labels)) < len(labels) - len(files[3])
        samples = Samples(
            class_names=tuple("0123456789"),
            labels=labels,
            names=[f"image {number}" for number in range(len(labels))],
            split=Split(train, ~train, ~train, tested=SEEN),
            contents=lambda: enumerate(images),
        )
        return counted(samples, "MNIST", **counts)

    return read


def idx(path: Path) -> NDArray[np.uint8]:
    """The array in an idx file of bytes: 0, 0, 8, dimensions, a big-endian length for each."""
    with wrap_archive_errors(path):
        content = gzip.decompress(path.read_bytes())
    dimensions = content[3]
    shape = np.frombuffer(content, ">i4", dimensions, offset=4)
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions)
    if content[:3] != b"\0\0\x08" or values.size != shape.prod():
        raise InputError(f"{path} is no idx file of bytes; fetch it again")
    return values.reshape(shape)


SOURCE = Source(
    files=[
        RemoteFile(
            name,
            Checksum("md5", digest, unpacked=True),
            tuple(f"{address}{name}" for address in ADDRESSES),
        )
        for name, digest in FILES.items()
    ],
    read=reader(LEFT_OUT, train=(55000, 10), query=(10000, 10)),
)
