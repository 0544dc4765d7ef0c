"""The photographs of the zero-shot benchmarks.

CUB-200-2011: C. Wah, S. Branson, P. Welinder, P. Perona, S. Belongie, CNS-TR-2011-001, Caltech.
Cars196: J. Krause, M. Stark, J. Deng, L. Fei-Fei, 3dRR workshop, 2013. Its hosts are gone.
Stanford Online Products: H. Oh Song, Y. Xiang, S. Jegelka, S. Savarese, CVPR 2016.
In-Shop Clothes Retrieval: Z. Liu, P. Luo, S. Qiu, X. Wang, X. Tang, DeepFashion, CVPR 2016. The
user downloads it: the project's page asks to accept a license and publishes no checksums.
"""

from dataclasses import replace
from io import BytesIO
from pathlib import Path, PurePosixPath

import numpy as np
from scipy.io import loadmat

from heated.common import archives
from heated.common.errors import InputError
from heated.common.samples import Samples, Split
from heated.datasets.download import Checksum, RemoteFile
from heated.datasets.image_folder import (
    Source,
    find_archive,
    find_prefix,
    samples_by_directory,
    samples_in_archives,
    with_class_split,
    wrap_parse_errors,
)

BIRDS, PRODUCTS = "CUB_200_2011", "Stanford_Online_Products"  # the archives' top directories
BIRD_TABLES = ("images.txt", "image_class_labels.txt")  # `image_id path`, `image_id class_id`
CAR_ANNOTATIONS = "cars_annos.mat"
TRAIN_BIRDS, TRAIN_CARS = 100, 98  # classes
CLOTHES_LIST = "list_eval_partition.txt"
CLOTHES_PARTS = ("train", "query", "gallery")
CLOTHES_PAGE = (
    "the DeepFashion project's page, In-shop Clothes Retrieval Benchmark: "
    "Img/img.zip and Eval/list_eval_partition.txt"
)
CUB_URL = "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz"
CUB_SHA256 = Checksum("sha256", "0c685df5597a8b24909f6a7c9db6d11e008733779a671760afef78feb49bf081")
SOP_URL = "http://ftp.cs.stanford.edu/cs/cvgl/Stanford_Online_Products.zip"
SOP_SHA256 = Checksum("sha256", "b04fa78210e69fab050ce73939550e1cd0f96890bdd98ec9fee732c3b756ef48")


def read_cub200(folder: Path) -> Samples:
    """Read CUB-200-2011 in the order of images.txt, which sorts by class."""
    archive = find_archive(folder)
    names = archives.member_names(archive)
    prefix = find_prefix(names, BIRD_TABLES[0])
    texts = dict(archives.read_members(archive, [f"{prefix}{table}" for table in BIRD_TABLES]))
    with wrap_parse_errors(archive, " or ".join(BIRD_TABLES)):
        paths, labels = (
            dict(line.split() for line in texts[f"{prefix}{table}"].decode().splitlines())
            for table in BIRD_TABLES
        )
        ordered = [paths[image] for image in sorted(paths, key=int)]
        classes = {f"{prefix}images/{path}": path.split("/")[0] for path in ordered}
        train = [paths[i].split("/")[0] for i, label in labels.items() if int(label) <= TRAIN_BIRDS]
    samples = samples_in_archives({archive: names}, classes)
    return with_class_split(samples, train)


def read_cars196(folder: Path) -> Samples:
    """Read Cars196 in the original layout, or a copy with one directory per class.

    The original is car_ims.tgz and cars_annos.mat, the second possibly inside the first. A copy may
    have any number of parts. Its classes are sorted by name, which is not the official order, but
    the first 98 are the same classes.
    """
    archive = find_archive(folder)
    names = archives.member_names(archive)
    inside = [name for name in names if PurePosixPath(name).name == CAR_ANNOTATIONS]
    annotations = folder / CAR_ANNOTATIONS
    if not inside and not annotations.exists():
        samples = samples_by_directory(archive, lambda directory: directory.name)
        return with_class_split(samples, samples.class_names[:TRAIN_CARS])
    content = archives.read_member(archive, inside[0]) if inside else annotations.read_bytes()
    with wrap_parse_errors(archive, CAR_ANNOTATIONS):
        table = loadmat(BytesIO(content), squeeze_me=True)
        class_names = [str(name) for name in table["class_names"]]
        columns = (table["annotations"][column] for column in ("class", "relative_im_path"))
        # classes are numbered from 1
        rows = sorted((int(number), str(path)) for number, path in zip(*columns, strict=True))
        prefix = find_prefix(names, rows[0][1])
        classes = {f"{prefix}{path}": class_names[number - 1] for number, path in rows}
    samples = samples_in_archives({archive: names}, classes)
    return with_class_split(samples, class_names[:TRAIN_CARS])


def read_sop(folder: Path) -> Samples:
    """Read Stanford Online Products with its official split, Ebay_train.txt and Ebay_test.txt.

    Below a heading, their lines are `image_id class_id super_class_id path`.
    """
    archive = find_archive(folder)
    names = archives.member_names(archive)
    prefix = find_prefix(names, "Ebay_train.txt")
    lists = [f"{prefix}Ebay_{part}.txt" for part in ("train", "test")]
    texts = dict(archives.read_members(archive, lists))
    with wrap_parse_errors(archive, " or ".join(lists)):
        rows = {name: map(str.split, texts[name].decode().splitlines()[1:]) for name in lists}
        train, test = (
            {f"{prefix}{path}": f"{int(label):05}" for _, label, _, path in rows[name]}
            for name in lists
        )
    samples = samples_in_archives({archive: names}, train | test)
    return with_class_split(samples, set(train.values()))


def read_in_shop(folder: Path) -> Samples:
    """Read In-Shop sorted by path, with the queries and the separate gallery of its list.

    Below a count and a heading, its lines are `path item_id part`. The list is next to the archive
    or, in a user's copy, inside it.
    """
    archive = find_archive(folder)
    names = archives.member_names(archive)
    if (folder / CLOTHES_LIST).exists():
        content = (folder / CLOTHES_LIST).read_bytes()
    else:
        inside = f"{find_prefix(names, CLOTHES_LIST)}{CLOTHES_LIST}"
        content = archives.read_member(archive, inside)
    with wrap_parse_errors(folder, CLOTHES_LIST):
        lines = (line.split() for line in content.decode().splitlines()[2:] if line.strip())
        rows = sorted((path, item, part) for path, item, part in lines)
    parts = np.array([part for _, _, part in rows])
    unknown = ", ".join(sorted(set(parts.tolist()).difference(CLOTHES_PARTS)))
    if unknown:
        expected = ", ".join(CLOTHES_PARTS)
        raise InputError(f"{CLOTHES_LIST}: got the parts {unknown}, expected {expected}")
    prefix = find_prefix(names, rows[0][0] if rows else "")
    samples = samples_in_archives({archive: names}, {f"{prefix}{p}": item for p, item, _ in rows})
    return replace(samples, split=Split(**{part: parts == part for part in CLOTHES_PARTS}))


CUB200 = Source(
    "CUB-200-2011",
    files=[RemoteFile(f"{BIRDS}.tgz", CUB_SHA256, (CUB_URL,), size=1_150_585_339)],
    reader=read_cub200,
    counts={"train": (5864, 100), "query": (5924, 100)},
    copies=[BIRDS],
)
CARS196 = Source(
    "Cars196",
    files=[
        RemoteFile(
            name,
            Checksum("md5", digest),
            by_hand="a copy of the original site",
            instead="a copy with one directory per class (a folder, .zip or .tar)",
        )
        for name, digest in [
            ("car_ims.tgz", "d5c8f0aa497503f355e17dc7886c3f14"),
            (CAR_ANNOTATIONS, "b407c6086d669747186bd1d764ff9dbc"),
        ]
    ],
    reader=read_cars196,
    counts={"train": (8054, 98), "query": (8131, 98)},
    copies=["cars196", "car196", "stanford_cars", "car_data"],
)
SOP = Source(
    "Stanford Online Products",
    files=[RemoteFile(f"{PRODUCTS}.zip", SOP_SHA256, (SOP_URL,), size=3_083_860_082)],
    reader=read_sop,
    counts={"train": (59551, 11318), "query": (60502, 11316)},
    copies=[PRODUCTS],
)
IN_SHOP = Source(
    "In-Shop",
    files=[RemoteFile(name, None, by_hand=CLOTHES_PAGE) for name in ("img.zip", CLOTHES_LIST)],
    reader=read_in_shop,
    counts={"train": (25882, 3997), "query": (14218, 3985), "gallery": (12612, 3985)},
    copies=["in-shop", "In-shop"],
)
