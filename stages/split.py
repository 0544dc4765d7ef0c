"""Pack a data set's images into one array and split its classes into training and test."""

import os

from heated.common.errors import run
from heated.common.io import load_settings, packed_folder, raw_folder, require_output
from heated.datasets import SOURCES, splits
from heated.preprocessing import packing


def main(dataset: str) -> None:
    """Write images.npy and index.npz of a data set."""
    settings = load_settings(f"packing/{dataset}.json")
    source, images = dict(settings["source"]), dict(settings["packing"])
    raw = require_output(raw_folder(dataset), "download")
    samples = SOURCES[source.pop("name")](**source).read(raw)
    rule, validation = images.pop("split"), images.pop("validation")
    split = splits.split(samples, rule.pop("name"), **rule)
    if validation is not None:
        split = splits.validation_fold(samples, split, **validation)
    folder, workers = packed_folder(dataset), os.cpu_count() or 1
    packing.pack(samples, split, folder, **images, workers=workers)


if __name__ == "__main__":
    run(main)
