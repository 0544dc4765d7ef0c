"""Download a data set's files and verify their checksums, or accept a local copy by its counts."""

from heated.common.cli import run
from heated.common.io import project_root, whole
from heated.common.paths import SIDE_SETTINGS, raw_folder, resolved
from heated.datasets import SOURCES
from heated.datasets.download import Cache, download_all, mirror_from
from heated.datasets.local_copy import find_copy, store_copy


def main(dataset: str) -> None:
    """Write the archives of a data set."""
    choice = dict(resolved(f"sources/{dataset}.json")["source"])
    name = choice.pop("name")
    source, raw = SOURCES[name](**choice), raw_folder(dataset)
    settings = resolved(SIDE_SETTINGS)["download"]
    mirror = mirror_from(settings["mirror"])
    copy = find_copy(source, mirror, name)
    if copy is None:
        cache = Cache(project_root() / settings["cache"], settings["cache_gb"])
        download_all(source.files, raw, mirror=mirror, subfolder=name, cache=cache)
        return
    with whole(raw) as folder:
        folder.mkdir()
        store_copy(copy, folder)
        source.read(folder)


if __name__ == "__main__":
    run(main)
