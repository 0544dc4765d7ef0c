"""Stanford Online Products: 120,053 photographs of 22,634 products, parted as its authors did.

Source: H. Oh Song, Y. Xiang, S. Jegelka, S. Savarese, CVPR 2016.
"""

from collections.abc import Callable
from pathlib import Path

from heated.common import archives
from heated.common.samples import Samples
from heated.datasets.base import Source, archive
from heated.datasets.download import Checksum, RemoteFile
from heated.datasets.image_folder import counted, listed, parted, understood

ROOT = "Stanford_Online_Products"


def reader(**counts: tuple[int, int]) -> Callable[[Path], Samples]:
    """A reader of the set in its own layout that holds it to these counts."""

    def read(folder: Path) -> Samples:
        """By Ebay_train.txt and Ebay_test.txt: `image_id class_id super_class_id path`."""
        place = archive(folder)
        lists = [f"{ROOT}/Ebay_{part}.txt" for part in ("train", "test")]
        texts = dict(archives.read(place, lists))
        with understood(place, " or ".join(lists)):
            train, test = (table(texts[name].decode()) for name in lists)
        samples = listed({place: archives.names(place)}, train | test)
        trained = set(train.values())
        return counted(parted(samples, trained.__contains__), ROOT.replace("_", " "), **counts)

    return read


def table(text: str) -> dict[str, str]:
    """The class of each image of a list with a heading, by its member's name."""
    rows = [line.split() for line in text.splitlines()[1:]]
    return {f"{ROOT}/{path}": f"{int(label):05}" for _, label, _, path in rows}


SOURCE = Source(
    files=[
        RemoteFile(
            "Stanford_Online_Products.zip",
            Checksum("sha256", "b04fa78210e69fab050ce73939550e1cd0f96890bdd98ec9fee732c3b756ef48"),
            ("http://ftp.cs.stanford.edu/cs/cvgl/Stanford_Online_Products.zip",),
            size=3_083_860_082,
        ),
    ],
    read=reader(train=(59551, 11318), query=(60502, 11316)),
    copies=[ROOT],
)
