"""Pack a data set's images into one array and part them into training and test."""

from pathlib import Path

from heated import config, packing, splits
from heated.command import run
from heated.files import required
from heated.sources import SOURCES


def main(dataset: str, raw: Path, packed: Path) -> None:
    """`raw`: the archives; `packed`: folder for images.npy and index.npz."""
    settings = config.load().datasets[dataset]
    source, options = settings.source, settings.packing
    samples = SOURCES[source.name](**source.options).read(required(raw, "download"))
    split = splits.split(samples, options.split.name, **options.split.options)
    if options.validation is not None:
        split = splits.held_out(samples, split, **options.validation.model_dump())
    packing.pack(samples, split, packed, size=options.size)


if __name__ == "__main__":
    run(main)
