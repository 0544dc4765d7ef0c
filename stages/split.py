"""Pack a data set's images into one array and part its classes into training and test."""

from pathlib import Path

from heated import config, packing, splits
from heated.command import run
from heated.files import required
from heated.sources import SOURCES


def main(dataset: str, raw: Path, packed: Path) -> None:
    """`raw`: the archives; `packed`: folder for images.npy and index.npz."""
    settings = config.load().datasets[dataset]
    samples = SOURCES[settings.source.name].read(required(raw, "download"))
    split = splits.split(samples, settings.packing.split)
    packing.pack(samples, split, packed, size=settings.packing.size)


if __name__ == "__main__":
    run(main)
