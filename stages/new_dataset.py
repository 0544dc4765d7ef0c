"""Add your own images as a data set: `python -m stages.new_dataset NAME IMAGES`.

IMAGES is a folder, a zip or a tar with one directory per class. The entry goes to the end of
datasets.yaml, and `run.datasets` of params.yaml then names only this data set.
"""

import subprocess
import sys
from pathlib import Path

from dvc.utils.serialize import modify_yaml

from heated.common import archives
from heated.common.errors import InputError, run
from heated.common.io import expand_home, write_text
from heated.datasets.file_names import list_files
from heated.datasets.image_folder import image_directories

DATASETS, PARAMS = Path("datasets.yaml"), Path("params.yaml")
MANY = 2000  # images from which pretrained weights and a GPU are worth it
MIN_CLASSES = 4  # half of them train, and a test of one class says nothing
ENTRY = """
  {name}:  # {images} images of {classes} classes
    base: {base}
    source: {{name: folder, path: {path}, layout: classes}}
"""
SMALL = """\
    packing: {size: 64, fit: crop, filter: lanczos, color_mode: rgb,
              split: {name: fraction, train: 0.5}}
    training: {epochs: 20, eval_every: 5, batch_size: 32,
               augment: [{name: crop, size: 56}, {name: flip, p: 0.5}]}
"""
LARGE = """\
    packing: {split: {name: fraction, train: 0.5}}
    training: {epochs: 10}
"""


def main(name: str, images: str) -> None:
    """Write the entry, if all settings are valid with it."""
    count, classes = count_images(expand_home(images))
    if classes < MIN_CLASSES:
        got = f"got {classes} classes, expected at least {MIN_CLASSES}, one directory each"
        raise InputError(f"{images}: {got}. Half of them train, the rest is tested.")
    is_small = count < MANY
    before = {path: path.read_text(encoding="utf-8") for path in (DATASETS, PARAMS)}
    if f"\n  {name}:" in before[DATASETS]:
        raise InputError(f"datasets.yaml: has {name!r} already. Choose another NAME, or edit it.")
    fields = {"images": f"{count:,}", "classes": f"{classes:,}", "path": quoted(images)}
    entry = ENTRY.format(name=name, base="digits" if is_small else "cub200-tuned", **fields)
    write_text(DATASETS, before[DATASETS] + entry + (SMALL if is_small else LARGE))
    with modify_yaml(str(PARAMS)) as params:
        params["run"]["datasets"] = [name]
    if subprocess.run([sys.executable, "-m", "stages.resolve", "--check"], check=False).returncode:
        for path, text in before.items():
            write_text(path, text)
        sys.exit("The files are as before.")
    recipe = "a small network at 64 x 64 pixels, for two CPU cores"
    if not is_small:
        recipe = "ResNet-50 with ImageNet weights at 224 x 224 pixels, which needs a GPU"
    print(
        f"{name}: {count:,} images of {classes:,} classes. The recipe is {recipe}; change it in "
        "datasets.yaml.\n`make debug` tries it with one method, one seed and two epochs; `make "
        "repro` builds all."
    )


def count_images(images: Path) -> tuple[int, int]:
    """Return the numbers of images and classes, as the stage `download` counts them."""
    if images.is_dir():
        names = [path.relative_to(images).as_posix() for path in list_files(images)[0]]
    else:
        names = archives.member_names(archives.require_archive(images))
    directories = image_directories(names)
    return len(directories), len({*directories.values()})


def quoted(text: str) -> str:
    """Quote a text for YAML.

    >>> quoted("../it's mine")
    "'../it''s mine'"
    """
    return "'" + text.replace("'", "''") + "'"


if __name__ == "__main__":
    run(main)
