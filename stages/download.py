"""Fetch a data set's files, each accepted by its checksum, or a copy of one's own by its counts."""

from pathlib import Path

from heated import config
from heated.common.cli import run
from heated.common.io import whole
from heated.datasets import SOURCES, local_copy
from heated.datasets.download import gather, mirror_from


def main(dataset: str, raw: Path) -> None:
    """`raw`: folder for the archives, as they come."""
    params = config.load()
    choice = params.datasets[dataset].source
    source = SOURCES[choice.name](**choice.options)
    mirror = mirror_from(params.download.mirror)
    copy = local_copy.found(source, mirror, choice.name)
    if copy is None:
        gather(source.files, raw, mirror=mirror, subfolder=choice.name)
        return
    with whole(raw) as folder:
        folder.mkdir()
        local_copy.collect(copy, folder)
        source.read(folder)


if __name__ == "__main__":
    run(main)
