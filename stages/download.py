"""Fetch a data set's files; each is accepted by its checksum only."""

from pathlib import Path

from heated import config
from heated.command import run
from heated.downloading import gather, mirror_from
from heated.sources import SOURCES


def main(dataset: str, raw: Path) -> None:
    """`raw`: folder for the archives, as they come."""
    params = config.load()
    source = params.datasets[dataset].source.name
    mirror = mirror_from(params.download.mirror)
    gather(SOURCES[source].files, raw, mirror=mirror, subfolder=source)


if __name__ == "__main__":
    run(main)
