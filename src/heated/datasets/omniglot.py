"""Omniglot: 964 drawn characters of 30 alphabets to train on (background), 659 of 20 other
alphabets to test on (evaluation), 20 drawings each.

Source: B. Lake, R. Salakhutdinov, J. Tenenbaum, Science 350 (2015).
"""

from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from heated.common import archives
from heated.common.samples import Samples
from heated.datasets.base import Source, archive
from heated.datasets.download import Checksum, RemoteFile
from heated.datasets.image_folder import by_name, counted, is_image, listed, parted

TRAIN, TEST = "images_background", "images_evaluation"
ADDRESS = "https://github.com/brendenlake/omniglot/raw/master/python/"


def reader(
    training: str, testing: str, *, left_out: Sequence[str] = (), **counts: tuple[int, int]
) -> Callable[[Path], Samples]:
    """A reader of two archives `<set>.zip`, or one of both, with images
    `<set>/<alphabet>/<character>/<n>.png` that holds them to these counts. A class is a set's
    character; test alphabets that are `left_out` are not read."""
    dropped = tuple(f"{testing}/{alphabet}/" for alphabet in left_out)

    def read(folder: Path) -> Samples:
        """Ink is 0 and paper 255, as in the files: `packing.colour: inverted` turns them."""
        official = [folder / f"{each}.zip" for each in (training, testing)]
        places = official if official[0].exists() else [archive(folder)]
        members = {place: archives.names(place) for place in places}
        paths = [PurePosixPath(name) for names in members.values() for name in names]
        classes = {str(path): character(path) for path in paths if is_image(path)}
        kept = {name: told for name, told in classes.items() if not told.startswith(dropped)}
        samples = parted(
            listed(members, by_name(kept)), lambda name: name.startswith(f"{training}/")
        )
        return counted(samples, "Omniglot", **counts)

    return read


def character(image: PurePosixPath) -> str:
    """`<set>/<alphabet>/<character>`, wherever the set lies."""
    return "/".join(image.parts[-4:-1])


def archives_of(**digests: str) -> list[RemoteFile]:
    """The official archives by name, with their SHA-256."""
    return [
        RemoteFile(f"{name}.zip", Checksum("sha256", digest), (f"{ADDRESS}{name}.zip",))
        for name, digest in digests.items()
    ]


SOURCE = Source(
    files=archives_of(
        images_background="ad41ab679c8b5d90b271ef46be6987cc81211774a695c29dcc5367b2b26ee640",
        images_evaluation="1f61a8f3366785b057fc117d9228e78a16e3d976c8953b2a10fcc74cf0609cee",
    ),
    read=reader(TRAIN, TEST, train=(19280, 964), query=(13180, 659)),
    copies=["omniglot", "omniglot-py"],
)
# The two small background sets: 136 characters of 5 alphabets train, 106 of 3 others are tested.
# Greek and Latin are in both; they are kept on the training side.
SMALL = Source(
    files=archives_of(
        images_background_small1="f38eb80f801274ac2b4dff5b24289016bfaba4a7d5bb50deebf27104ad6cb8a4",
        images_background_small2="3ccaa407515a8778e5d0861875af38b17e418f301ad5bb3b5a6b65d901a41c7f",
    ),
    read=reader(
        f"{TRAIN}_small1",
        f"{TRAIN}_small2",
        left_out=("Greek", "Latin"),
        train=(2720, 136),
        query=(2120, 106),
    ),
)
