"""Small archives in the data sets' own layouts. Each builder writes a set's files into a folder
and returns the class of every image by the end of its member's name, in the reader's order."""

import gzip
import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat


def picture(seed: int, *, mode: str = "RGB", form: str = "JPEG") -> bytes:
    """An image file of some 20 pixels a side, never the same for two seeds."""
    random = np.random.default_rng(seed)
    width, height = random.integers(16, 25, 2).tolist()
    pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, form)
    return file.getvalue()


def tar(path: Path, files: Mapping[str, bytes]) -> None:
    """A tar.gz of the files in their order."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def zipped(path: Path, files: Mapping[str, bytes]) -> None:
    """A zip of the files in their order."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def spread(folder: Path, files: Mapping[str, bytes]) -> None:
    """The files unpacked."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def cub200_files() -> tuple[dict[str, bytes], dict[str, str]]:
    """Species 99 to 102 with 3 images each, one of them grey, stored in no order."""
    names = ["099.Ovenbird", "100.Brown_Pelican", "101.White_Pelican", "102.Western_Wood_Pewee"]
    paths = [f"{name}/{name[4:]}_{n:04}_{n}.jpg" for name in names for n in range(3)]
    images = {
        f"CUB_200_2011/images/{path}": picture(seed, mode="L" if seed % 3 else "RGB")
        for seed, path in enumerate(paths)
    }
    listed = "".join(f"{number} {path}\n" for number, path in enumerate(paths, 1))
    labels = "".join(f"{number} {int(path[:3])}\n" for number, path in enumerate(paths, 1))
    texts = {
        "attributes.txt": b"1 has_bill_shape::curved\n",
        "CUB_200_2011/README": b"the set",
        "CUB_200_2011/images.txt": listed.encode(),
        "CUB_200_2011/image_class_labels.txt": labels.encode(),
    }
    files = {**dict(reversed(images.items())), **texts}
    return files, {path: path.split("/")[0] for path in paths}


def cub200(folder: Path) -> dict[str, str]:
    files, classes = cub200_files()
    tar(folder / "CUB_200_2011.tgz", files)
    return classes


CARS = [f"Car {number:03} Sedan 2012" for number in range(1, 197)]


def cars196_images() -> dict[str, tuple[int, bytes]]:
    """Number of the class (from 1) and content of each image: classes 97 to 100, 3 images each."""
    numbers = [100, 97, 98, 99] * 3
    return {f"{i:06}.jpg": (n, picture(100 + i)) for i, n in enumerate(numbers, 1)}


def cars196_annotations() -> bytes:
    """cars_annos.mat: a struct an image, as the original has it, and the classes' names."""
    fields = ["relative_im_path", "bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "test"]
    rows = [
        (f"car_ims/{name}", 1, 2, 15, 16, number, i % 2)
        for i, (name, (number, _)) in enumerate(cars196_images().items())
    ]
    annotations = np.array([rows], dtype=[(field, object) for field in fields])[0]
    names = np.array([CARS], dtype=object)
    file = io.BytesIO()
    savemat(file, {"annotations": annotations.reshape(1, -1), "class_names": names})
    return file.getvalue()


def cars196(folder: Path) -> dict[str, str]:
    images = cars196_images()
    tar(folder / "car_ims.tgz", {f"car_ims/{n}": content for n, (_, content) in images.items()})
    (folder / "cars_annos.mat").write_bytes(cars196_annotations())
    in_order = sorted(images, key=lambda name: (images[name][0], name))
    return {name: CARS[images[name][0] - 1] for name in in_order}


def cars196_by_class() -> dict[str, bytes]:
    """A common copy: parts train and test, a directory a class in each; all 196 classes."""
    files = {
        f"car_data/{'test' if i % 2 else 'train'}/{CARS[n - 1]}/{name}": content
        for i, (name, (n, content)) in enumerate(cars196_images().items())
    }
    rest = [car for car in CARS if car not in {CARS[n - 1] for n in range(97, 101)}]
    return files | {f"car_data/train/{car}/{i}.jpg": picture(i) for i, car in enumerate(rest)}


def sop(folder: Path) -> dict[str, str]:
    """Two products to train on and two to test on, 3 images each, of two kinds of things."""
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
    files = {f"Stanford_Online_Products/{p}": picture(200 + i) for i, (p, _, _) in enumerate(rows)}
    for part in ("train", "test"):
        lines = [f"{i} {c} 1 {p}" for i, (p, c, told) in enumerate(rows, 1) if told == part]
        text = "\n".join(["image_id class_id super_class_id path", *lines, ""])
        files[f"Stanford_Online_Products/Ebay_{part}.txt"] = text.encode()
    files["__MACOSX/Stanford_Online_Products/._Ebay_info.txt"] = b"x"
    zipped(folder / "Stanford_Online_Products.zip", files)
    return {path: f"{label:05}" for path, label, _ in rows}


def in_shop_rows() -> list[tuple[str, str, str]]:
    """Path, item and part: two items to train on; of two others 1 query and 2 in the gallery."""
    return [
        (f"img/WOMEN/Dresses/id_{item:08}/0{n}_1_front.jpg", f"id_{item:08}", part)
        for item, parts in [
            (2, ("train", "train")),
            (1, ("query", "gallery", "gallery")),
            (7, ("train", "train")),
            (5, ("gallery", "query", "gallery")),
        ]
        for n, part in enumerate(parts, 1)
    ]


def in_shop_partition() -> bytes:
    rows = in_shop_rows()
    lines = [f"{path}  {item}  {part}" for path, item, part in rows]
    text = "\n".join([str(len(rows)), "image_name item_id evaluation_status", *lines, ""])
    return text.encode()


def in_shop(folder: Path) -> dict[str, str]:
    rows = in_shop_rows()
    zipped(folder / "img.zip", {path: picture(300 + i) for i, (path, _, _) in enumerate(rows)})
    (folder / "list_eval_partition.txt").write_bytes(in_shop_partition())
    return {path: item for path, item, _ in sorted(rows)}


def idx(values: np.ndarray) -> bytes:
    """A file of bytes in MNIST's format, packed."""
    head = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">i4").tobytes()
    return gzip.compress(head + values.astype(np.uint8).tobytes(), mtime=0)


def mnist_arrays() -> dict[str, np.ndarray]:
    """By file: 25 training images and 20 test images of the ten digits."""
    random = np.random.default_rng(4)
    arrays = {}
    for part, count in (("train", 25), ("t10k", 20)):
        arrays[f"{part}-images-idx3-ubyte.gz"] = random.integers(0, 256, (count, 28, 28))
        arrays[f"{part}-labels-idx1-ubyte.gz"] = np.arange(count) % 10
    return arrays


def mnist(folder: Path) -> dict[str, str]:
    arrays = mnist_arrays()
    for name, values in arrays.items():
        (folder / name).write_bytes(idx(values))
    train, test = (arrays[f"{part}-labels-idx1-ubyte.gz"] for part in ("train", "t10k"))
    return {f"image {i}": str(d) for i, d in enumerate([*train[5:], *test])}


def omniglot(folder: Path, *, together: bool = False) -> dict[str, str]:
    """Two characters in each of two sets, 3 drawings each, of one bit a pixel; an archive a set, or
    one of a folder with both."""
    classes: dict[str, str] = {}
    drawn: dict[str, bytes] = {}
    for seed, part in enumerate(("images_background", "images_evaluation")):
        paths = [
            f"{part}/Alphabet_{seed}/character{c:02}/{c:04}_{n:02}.png"
            for c in (1, 2)
            for n in (1, 2, 3)
        ]
        images = {p: picture(10 * seed + i, mode="1", form="PNG") for i, p in enumerate(paths)}
        if not together:
            zipped(folder / f"{part}.zip", dict(reversed(images.items())))
        drawn |= {f"omniglot/{path}": image for path, image in images.items()}
        classes |= {path: str(Path(path).parent) for path in paths}
    if together:
        zipped(folder / "omniglot.zip", drawn)
    return classes
