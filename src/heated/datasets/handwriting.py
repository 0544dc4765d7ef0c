"""Handwritten digits and characters.

digits: scikit-learn's; E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI,
1998 (test part). MNIST: Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, Proc. IEEE 86 (1998).
Omniglot: B. Lake, R. Salakhutdinov, J. Tenenbaum, Science 350 (2015).
"""

import gzip
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from heated.common import archives
from heated.common.io import wrap_damage
from heated.common.samples import SEEN, Samples, Split
from heated.datasets.download import Checksum, RemoteFile
from heated.datasets.file_names import is_image
from heated.datasets.image_folder import Source, find_archive, samples_in_archives, with_class_split

MNIST_URLS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
MNIST_FILES = {  # MD5 of the unpacked bytes: mirrors compress them differently
    "train-images-idx3-ubyte.gz": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte.gz": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte.gz": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte.gz": "27ae3e4e09519cfbb04c329615203637",
}
OMNIGLOT_URL = "https://github.com/brendenlake/omniglot/raw/master/python/"


def read_digits(folder: Path, *, rotations: int) -> Samples:
    """Read 1,797 images of 8x8, each in `rotations`: by 0, 90, 180 and 270 degrees.

    With four of them, class 4 d + t is digit d after t quarter turns, so that the halves of the
    classes are digits 0-4 and 5-9. Some classes look alike (0, 8; 6 and 9), as some birds do.
    """
    with wrap_damage(folder / "digits.csv.gz"):
        table = np.loadtxt(folder / "digits.csv.gz", delimiter=",", dtype=np.int64)
        images, digits = table[:, :-1].reshape(-1, 8, 8), table[:, -1]
    gray = np.round(images * (255 / 16)).astype(np.uint8)  # the file's values are 0 to 16
    rotated = [np.rot90(image, turn) for image in gray for turn in range(rotations)]
    class_names = tuple(f"{d} turned {90 * t}" for d in range(10) for t in range(rotations))
    labels = (rotations * digits[:, None] + np.arange(rotations)).reshape(-1)
    names = [f"digits.csv.gz line {i // rotations + 1}" for i in range(len(rotated))]
    return Samples(class_names, labels, names, None, lambda: enumerate(rotated))


def read_mnist(folder: Path, *, skip: int = 5000) -> Samples:
    """Read MNIST, 28x28, ink is 255, without the first `skip` training images as the authors do."""
    files = [read_idx(folder / name) for name in MNIST_FILES]
    images = np.concatenate([files[0][skip:], files[2]])
    labels = np.concatenate([files[1][skip:], files[3]]).astype(np.int64)
    train = np.arange(len(labels)) < len(labels) - len(files[3])
    split = Split(train, ~train, ~train, tested=SEEN)
    names = [f"image {number}" for number in range(len(labels))]
    return Samples(tuple("0123456789"), labels, names, split, lambda: enumerate(images))


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read an idx file of bytes: 0, 0, 8, dimensions, a big-endian length per dimension, values."""
    with wrap_damage(path):
        content = gzip.decompress(path.read_bytes())
        dimensions = content[3]
        shape = np.frombuffer(content, ">i4", dimensions, offset=4)
        values = np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions)
        if content[:3] != b"\0\0\x08" or values.size != shape.prod():
            raise ValueError(f"got {len(content)} bytes, expected an idx file")
        return values.reshape(shape)


def read_omniglot(folder: Path, *, train: str, test: str, excluded: Sequence[str] = ()) -> Samples:
    """Read `<set>/<alphabet>/<character>/<n>.png`, with one class per character of a set.

    `train` and `test` name the sets, each in its archive `<set>.zip`, or both in one archive. Test
    alphabets in `excluded` are not read. Ink is 0 and paper 255, as in the files.
    """
    official = [folder / f"{name}.zip" for name in (train, test)]
    paths = official if official[0].exists() else [find_archive(folder)]
    members = {path: archives.member_names(path) for path in paths}
    images = filter(is_image, (PurePosixPath(name) for names in members.values() for name in names))
    classes = {str(image): "/".join(image.parts[-4:-1]) for image in images}
    prefixes = tuple(f"{test}/{alphabet}/" for alphabet in excluded)
    kept = sorted((c, name) for name, c in classes.items() if not c.startswith(prefixes))
    samples = samples_in_archives(members, {name: label for label, name in kept})
    return with_class_split(samples, {label for label, _ in kept if label.startswith(f"{train}/")})


def digits(*, rotations: int) -> Source:
    """Return scikit-learn's digits, with 10 classes per rotation."""
    digest = "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22"
    url = "package:sklearn/datasets/data/digits.csv.gz"
    file = RemoteFile("digits.csv.gz", Checksum("sha256", digest), (url,))
    return Source("digits", files=[file], reader=partial(read_digits, rotations=rotations))


def omniglot_files(**digests: str) -> list[RemoteFile]:
    """Return the official archives with their SHA-256."""
    return [
        RemoteFile(f"{name}.zip", Checksum("sha256", digest), (f"{OMNIGLOT_URL}{name}.zip",))
        for name, digest in digests.items()
    ]


MNIST = Source(
    "MNIST",
    files=[
        RemoteFile(name, Checksum("md5", digest, unpacked=True), [url + name for url in MNIST_URLS])
        for name, digest in MNIST_FILES.items()
    ],
    reader=read_mnist,
    counts={"train": (55000, 10), "query": (10000, 10)},
)
OMNIGLOT = Source(
    "Omniglot",
    files=omniglot_files(
        images_background="ad41ab679c8b5d90b271ef46be6987cc81211774a695c29dcc5367b2b26ee640",
        images_evaluation="1f61a8f3366785b057fc117d9228e78a16e3d976c8953b2a10fcc74cf0609cee",
    ),
    reader=partial(read_omniglot, train="images_background", test="images_evaluation"),
    counts={"train": (19280, 964), "query": (13180, 659)},  # 30 and 20 alphabets
    copies=["omniglot", "omniglot-py"],
)
# The two small background sets, with 5 alphabets to train on and 3 other ones to test on. Greek and
# Latin are in both; they are used for training only.
OMNIGLOT_SMALL = Source(
    "Omniglot",
    files=omniglot_files(
        images_background_small1="f38eb80f801274ac2b4dff5b24289016bfaba4a7d5bb50deebf27104ad6cb8a4",
        images_background_small2="3ccaa407515a8778e5d0861875af38b17e418f301ad5bb3b5a6b65d901a41c7f",
    ),
    reader=partial(
        read_omniglot,
        train="images_background_small1",
        test="images_background_small2",
        excluded=("Greek", "Latin"),
    ),
    counts={"train": (2720, 136), "query": (2120, 106)},
)
