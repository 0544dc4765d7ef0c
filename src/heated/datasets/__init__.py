"""Data sets: their files (addresses, checksums) and readers of their images and labels."""

from collections.abc import Callable

from heated.datasets import handwriting, photographs
from heated.datasets.image_folder import Source, image_folder

SOURCES: dict[str, Callable[..., Source]] = {
    "digits": handwriting.digits,
    "omniglot-small": lambda: handwriting.OMNIGLOT_SMALL,
    "omniglot": lambda: handwriting.OMNIGLOT,
    "mnist": lambda: handwriting.MNIST,
    "cub200": lambda: photographs.CUB200,
    "cars196": lambda: photographs.CARS196,
    "sop": lambda: photographs.SOP,
    "in-shop": lambda: photographs.IN_SHOP,
    "folder": image_folder,
}
