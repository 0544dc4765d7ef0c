"""Fetch a data set's files; each is accepted by its checksum only."""

from pathlib import Path

from heated import config
from heated.command import run
from heated.downloading import fetch, mirror_from
from heated.files import whole
from heated.sources import SOURCES


def main(dataset: str, raw: Path) -> None:
    """`raw`: folder for the archives, as they come."""
    params = config.load()
    source = params.datasets[dataset].source.name
    mirror = mirror_from(params.download.mirror)
    with whole(raw) as folder:
        folder.mkdir()
        for file in SOURCES[source].files:
            fetch(file, folder, mirror=mirror, subfolder=source)


if __name__ == "__main__":
    run(main)
