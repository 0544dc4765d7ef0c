"""Pack a data set's images into one array and part them into training and test."""

import os
from pathlib import Path

from heated import config
from heated.common.cli import run
from heated.common.io import required
from heated.datasets import SOURCES, splits
from heated.preprocessing import packing


def main(dataset: str, raw: Path, packed: Path) -> None:
    """`raw`: the archives; `packed`: folder for images.npy and index.npz."""
    settings = config.load().datasets[dataset]
    source, rule = settings.source, settings.packing.split
    samples = SOURCES[source.name](**source.options).read(required(raw, "download"))
    split = splits.split(samples, rule.name, **rule.options)
    if settings.packing.validation is not None:
        split = splits.held_out(samples, split, **settings.packing.validation.model_dump())
    images = settings.packing.model_dump(exclude={"split", "validation"})
    packing.pack(samples, split, packed, **images, workers=os.cpu_count() or 1, source=raw)


if __name__ == "__main__":
    run(main)
