"""Data sets: for each, its files (addresses, checksums) and a reader of their images and labels."""

from collections.abc import Callable

from heated.datasets import cars196, cub200, custom, digits, in_shop, mnist, omniglot, sop
from heated.datasets.base import Source

SOURCES: dict[str, Callable[..., Source]] = {
    "digits": digits.digits,
    "omniglot-small": lambda: omniglot.SMALL,
    "omniglot": lambda: omniglot.SOURCE,
    "mnist": lambda: mnist.SOURCE,
    "cub200": lambda: cub200.SOURCE,
    "cars196": lambda: cars196.SOURCE,
    "sop": lambda: sop.SOURCE,
    "in-shop": lambda: in_shop.SOURCE,
    "folder": custom.source,
}
