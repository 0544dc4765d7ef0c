"""scikit-learn's handwritten digits (1,797 images, 8x8), a class each of their quarter turns.

Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998 (test part).
"""

from functools import partial
from pathlib import Path

import numpy as np

from heated.common.samples import Samples
from heated.datasets.base import Source
from heated.datasets.download import Checksum, RemoteFile

INK = 16  # the files' darkest value


def read(folder: Path, *, turns: int) -> Samples:
    """1,797 x turns images in the order digit image by digit image, each turned by 0, 90, 180, 270
    degrees: as many of them as there are turns.

    With four, class 4 d + t is digit d after t quarter turns, so that halves of the classes are
    digits 0-4 and 5-9. Some turned classes look alike (0, 8; 6 and 9), as some bird species do.
    """
    table = np.loadtxt(folder / "digits.csv.gz", delimiter=",", dtype=np.int64)
    images, digits = table[:, :-1].reshape(-1, 8, 8), table[:, -1]
    grey = np.round(images * (255 / INK)).astype(np.uint8)
    turned = [np.rot90(image, turn) for image in grey for turn in range(turns)]
    return Samples(
        class_names=tuple(f"{d} turned {90 * t}" for d in range(10) for t in range(turns)),
        labels=(turns * digits[:, None] + np.arange(turns)).reshape(-1),
        names=[f"digits.csv.gz line {i // turns + 1}" for i in range(len(turned))],
        split=None,
        contents=lambda: enumerate(turned),
    )


FILES = (
    RemoteFile(
        "digits.csv.gz",
        Checksum("sha256", "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22"),
        ("package:sklearn/datasets/data/digits.csv.gz",),
    ),
)


def digits(*, turns: int) -> Source:
    """The digits as so many classes each."""
    return Source(files=FILES, read=partial(read, turns=turns))
