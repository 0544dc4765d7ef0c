"""Small archives in the data sets' layouts.

Each builder writes a set's files into a folder and returns the class of every image by the end of
its member's name, in the reader's order.
"""

import gzip
import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat


def random_image(seed: int, *, mode: str = "RGB", form: str = "JPEG") -> bytes:
    """An image file of some 20 pixels per side, different for every seed."""
    random = np.random.default_rng(seed)
    width, height = random.integers(16, 25, 2).tolist()
    pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, form)
    return file.getvalue()


def write_tar(path: Path, files: Mapping[str, bytes]) -> None:
    """Write a tar.gz of the files in their order."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def write_zip(path: Path, files: Mapping[str, bytes]) -> None:
    """Write a zip of the files in their order."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write the files unpacked."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def cub200_files() -> tuple[dict[str, bytes], dict[str, str]]:
    """Species 99 to 102 with 3 images each, some of them gray, stored in another order."""
    names = ["099.Ovenbird", "100.Brown_Pelican", "101.White_Pelican", "102.Western_Wood_Pewee"]
    paths = [f"{name}/{name[4:]}_{n:04}_{n}.jpg" for name in names for n in range(3)]
    images = {
        f"CUB_200_2011/images/{path}": random_image(seed, mode="L" if seed % 3 else "RGB")
        for seed, path in reversed([*enumerate(paths)])
    }
    table = "".join(f"{number} {path}\n" for number, path in enumerate(paths, 1))
    labels = "".join(f"{number} {int(path[:3])}\n" for number, path in enumerate(paths, 1))
    texts = {
        "attributes.txt": b"1 has_bill_shape::curved\n",
        "CUB_200_2011/README": b"the set",
        "CUB_200_2011/images.txt": table.encode(),
        "CUB_200_2011/image_class_labels.txt": labels.encode(),
    }
    return {**images, **texts}, {path: path.split("/")[0] for path in paths}


def cub200(folder: Path) -> dict[str, str]:
    files, classes = cub200_files()
    write_tar(folder / "CUB_200_2011.tgz", files)
    return classes


CARS = [f"Car {number:03} Sedan 2012" for number in range(1, 197)]


def cars196(folder: Path) -> dict[str, str]:
    """Classes 97 to 100, 3 images each; cars_annos.mat has a struct per image, as the original."""
    images = [(f"{i:06}.jpg", number) for i, number in enumerate([100, 97, 98, 99] * 3, 1)]
    write_tar(
        folder / "car_ims.tgz",
        {f"car_ims/{p}": random_image(100 + n) for n, (p, _) in enumerate(images)},
    )
    fields = ["relative_im_path", "bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "test"]
    rows = [(f"car_ims/{p}", 1, 2, 15, 16, number, i % 2) for i, (p, number) in enumerate(images)]
    annotations = np.array([rows], dtype=[(field, object) for field in fields])
    names = np.array([CARS], dtype=object)
    savemat(folder / "cars_annos.mat", {"annotations": annotations, "class_names": names})
    return {path: CARS[number - 1] for number, path in sorted((n, p) for p, n in images)}


def cars196_by_class() -> dict[str, bytes]:
    """A common copy: parts train and test, one directory per class in each."""
    return {
        f"car_data/{part}/{car}/{i}.jpg": random_image(1000 * part_number + i)
        for part_number, part in enumerate(("train", "test"))
        for i, car in enumerate(CARS)
    }


def sop(folder: Path) -> dict[str, str]:
    """Two products to train on and two to test on, 3 images each, of two kinds."""
    rows = [
        (f"{kind}_final/{1000 + product}_{n}.JPG", product, part)
        for product, kind, part in [
            (1, "bicycle", "train"),
            (2, "sofa", "train"),
            (11319, "bicycle", "test"),
            (11320, "sofa", "test"),
        ]
        for n in range(3)
    ]
    files = {
        f"Stanford_Online_Products/{p}": random_image(200 + i) for i, (p, _, _) in enumerate(rows)
    }
    for part in ("train", "test"):
        lines = [f"{i} {c} 1 {path}" for i, (path, c, p) in enumerate(rows, 1) if p == part]
        text = "\n".join(["image_id class_id super_class_id path", *lines, ""])
        files[f"Stanford_Online_Products/Ebay_{part}.txt"] = text.encode()
    files["__MACOSX/Stanford_Online_Products/._Ebay_info.txt"] = b"x"
    write_zip(folder / "Stanford_Online_Products.zip", files)
    return {path: f"{label:05}" for path, label, _ in rows}


def in_shop(folder: Path) -> dict[str, str]:
    """Two items to train on; of two others 1 query and 2 in the gallery."""
    rows = [
        (f"img/WOMEN/Dresses/id_{item:08}/0{n}_1_front.jpg", f"id_{item:08}", part)
        for item, parts in [
            (2, ("train", "train")),
            (1, ("query", "gallery", "gallery")),
            (7, ("train", "train")),
            (5, ("gallery", "query", "gallery")),
        ]
        for n, part in enumerate(parts, 1)
    ]
    write_zip(
        folder / "img.zip", {path: random_image(300 + i) for i, (path, _, _) in enumerate(rows)}
    )
    lines = ["image_name item_id evaluation_status", *map("  ".join, rows), ""]
    text = "\n".join([str(len(rows)), *lines])
    (folder / "list_eval_partition.txt").write_text(text, encoding="utf-8")
    return {path: item for path, item, _ in sorted(rows)}


def idx(values: np.ndarray) -> bytes:
    """A compressed file of bytes in MNIST's format."""
    head = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">i4").tobytes()
    return gzip.compress(head + values.astype(np.uint8).tobytes(), mtime=0)


def mnist(folder: Path) -> dict[str, str]:
    """25 training images and 20 test images of the ten digits, of which 5 are not used."""
    random = np.random.default_rng(4)
    for part, count in (("train", 25), ("t10k", 20)):
        images = random.integers(0, 256, (count, 28, 28))
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(idx(images))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(idx(np.arange(count) % 10))
    return {f"image {i}": str(digit % 10) for i, digit in enumerate([*range(5, 25), *range(20)])}


def omniglot(folder: Path, *, together: bool = False) -> dict[str, str]:
    """Two sets of two characters, 3 drawings each, 1 bit per pixel.

    There is an archive per set, or `together` one of a folder with both.
    """
    classes: dict[str, str] = {}
    files: dict[str, bytes] = {}
    for seed, part in enumerate(("images_background", "images_evaluation")):
        paths = [
            f"{part}/Alphabet_{seed}/character{c:02}/{c:04}_{n:02}.png"
            for c in (1, 2)
            for n in (1, 2, 3)
        ]
        images = {p: random_image(10 * seed + i, mode="1", form="PNG") for i, p in enumerate(paths)}
        if not together:
            write_zip(folder / f"{part}.zip", dict(reversed(images.items())))
        files |= {f"omniglot/{path}": image for path, image in images.items()}
        classes |= {path: str(Path(path).parent) for path in paths}
    if together:
        write_zip(folder / "omniglot.zip", files)
    return classes
