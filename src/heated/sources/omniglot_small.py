"""Omniglot's two small background sets: 136 drawn characters of 5 alphabets to train on, 106 of 3
other alphabets to test on, 20 drawings each.

Source: B. Lake, R. Salakhutdinov, J. Tenenbaum, Science 350 (2015). Greek and Latin are in both
files; they are kept on the training side and dropped from the test side.
"""

import zipfile
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from heated.downloading import Checksum, RemoteFile
from heated.samples import Samples
from heated.sources.source import Source

TRAIN, TEST = "images_background_small1", "images_background_small2"
IN_BOTH = ("Greek", "Latin")
ADDRESS = "https://github.com/brendenlake/omniglot/raw/master/python/"


def read(folder: Path) -> Samples:
    """4,840 images of 242 classes `set/alphabet/character`; ink is 255, paper 0."""
    archives = {part: zipfile.ZipFile(folder / f"{part}.zip") for part in (TRAIN, TEST)}
    members = [
        PurePosixPath(name)
        for part in (TRAIN, TEST)
        for name in sorted(archives[part].namelist())
        if name.endswith(".png") and (part == TRAIN or name.split("/")[1] not in IN_BOTH)
    ]
    class_names = tuple(dict.fromkeys(str(member.parent) for member in members))
    numbers = {name: number for number, name in enumerate(class_names)}

    def image(i: int) -> NDArray[np.uint8]:
        with archives[members[i].parts[0]].open(str(members[i])) as file:
            drawing = np.asarray(Image.open(file).convert("L"))
        return 255 - drawing

    return Samples(
        class_names=class_names,
        labels=np.array([numbers[str(member.parent)] for member in members], dtype=np.int64),
        train_classes=np.array([name.startswith(TRAIN) for name in class_names]),
        image=image,
    )


SOURCE = Source(
    files=(
        RemoteFile(
            f"{TRAIN}.zip",
            Checksum("sha256", "f38eb80f801274ac2b4dff5b24289016bfaba4a7d5bb50deebf27104ad6cb8a4"),
            (f"{ADDRESS}{TRAIN}.zip",),
        ),
        RemoteFile(
            f"{TEST}.zip",
            Checksum("sha256", "3ccaa407515a8778e5d0861875af38b17e418f301ad5bb3b5a6b65d901a41c7f"),
            (f"{ADDRESS}{TEST}.zip",),
        ),
    ),
    read=read,
)
