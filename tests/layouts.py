"""Small archives in the data sets' layouts.

Each builder writes a set's files into a folder and returns the class of every image by the end of
its member's name, in the reader's order.
"""

import gzip
import io
import resource
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
    files = {f"car_ims/{path}": random_image(100 + i) for i, (path, _) in enumerate(images)}
    write_tar(folder / "car_ims.tgz", files)
    fields = ["relative_im_path", "bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "test"]
    rows = [(f"car_ims/{p}", 1, 2, 15, 16, number, i % 2) for i, (p, number) in enumerate(images)]
    annotations = np.array([rows], dtype=[(field, object) for field in fields])
    names = np.array([CARS], dtype=object)
    savemat(folder / "cars_annos.mat", {"annotations": annotations, "class_names": names})
    return {path: CARS[number - 1] for number, path in sorted((n, p) for p, n in images)}


def sop(folder: Path) -> dict[str, str]:
    """Two products to train on and two to test on, 3 images each, of two kinds."""
    products = {1: "bicycle", 2: "sofa", 11319: "bicycle", 11320: "sofa"}
    top = "Stanford_Online_Products"
    files, classes = {f"__MACOSX/{top}/._Ebay_info.txt": b"x"}, {}
    lists = {part: "image_id class_id super_class_id path\n" for part in ("train", "test")}
    for i, (product, n) in enumerate((product, n) for product in products for n in range(3)):
        path = f"{products[product]}_final/{1000 + product}_{n}.JPG"
        files[f"{top}/{path}"] = random_image(200 + i)
        classes[path] = f"{product:05}"
        lists["train" if product < 11319 else "test"] += f"{i + 1} {product} 1 {path}\n"
    files |= {f"{top}/Ebay_{part}.txt": text.encode() for part, text in lists.items()}
    write_zip(folder / f"{top}.zip", files)
    return classes


def in_shop(folder: Path) -> dict[str, str]:
    """Two items to train on; of two others 1 query and 2 in the gallery."""
    parts = {2: "train train", 1: "query gallery gallery", 7: "train train"}
    parts[5] = "gallery query gallery"
    rows = [
        (f"img/WOMEN/Dresses/id_{item:08}/0{n}_1_front.jpg", f"id_{item:08}", part)
        for item, text in parts.items()
        for n, part in enumerate(text.split(), 1)
    ]
    images = {path: random_image(300 + i) for i, (path, _, _) in enumerate(rows)}
    write_zip(folder / "img.zip", images)
    lines = [str(len(rows)), "image_name item_id evaluation_status", *map("  ".join, rows), ""]
    (folder / "list_eval_partition.txt").write_text("\n".join(lines), encoding="utf-8")
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
    files: dict[str, bytes] = {}
    for seed, part in enumerate(("images_background", "images_evaluation")):
        images = {
            f"{part}/Alphabet_{seed}/character{c:02}/{c:04}_{n:02}.png": random_image(
                100 * seed + 10 * c + n, mode="1", form="PNG"
            )
            for c in (1, 2)
            for n in (1, 2, 3)
        }
        files |= images
        if not together:
            write_zip(folder / f"{part}.zip", dict(reversed(images.items())))
    if together:
        write_zip(folder / "omniglot.zip", {f"omniglot/{p}": image for p, image in files.items()})
    return {path: str(Path(path).parent) for path in files}


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond a size, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
