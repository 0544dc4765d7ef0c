"""Data sets: for each, its files (addresses, checksums) and a reader of their images and labels."""

from heated.sources import digits, omniglot_small
from heated.sources.source import Source

SOURCES: dict[str, Source] = {
    "digits": digits.SOURCE,
    "omniglot-small": omniglot_small.SOURCE,
}
