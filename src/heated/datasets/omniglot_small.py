"""Omniglot's two small background sets: 136 drawn characters of 5 alphabets to train on, 106 of 3
other alphabets to test on, 20 drawings each.

Source: B. Lake, R. Salakhutdinov, J. Tenenbaum, Science 350 (2015). Greek and Latin are in both
files; they are kept on the training side and dropped from the test side.
"""

from heated.datasets.base import Source
from heated.datasets.download import Checksum, RemoteFile
from heated.datasets.omniglot import ADDRESS, reader

TRAIN, TEST = "images_background_small1", "images_background_small2"
IN_BOTH = ("Greek", "Latin")

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
    read=reader(TRAIN, TEST, left_out=IN_BOTH, train=(2720, 136), query=(2120, 106)),
)
