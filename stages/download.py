"""Download a data set's files and verify their checksums, or accept a local copy by its counts."""

from heated.common.errors import run
from heated.common.io import (
    SIDE_SETTINGS,
    atomic_write,
    load_settings,
    project_path,
    raw_folder,
    rename_in_errors,
)
from heated.datasets import SOURCES
from heated.datasets.download import Cache, download_all, mirror_from
from heated.datasets.image_folder import find_copy, store_copy


def main(dataset: str) -> None:
    """Write the archives of a data set."""
    choice = dict(load_settings(f"sources/{dataset}.json")["source"])
    name = choice.pop("name")
    source, raw = SOURCES[name](**choice), raw_folder(dataset)
    settings = load_settings(SIDE_SETTINGS)["download"]
    mirror = mirror_from(settings["mirror"])
    copy = find_copy(source, mirror, name)
    if copy is None:
        cache = Cache(project_path(settings["cache"]), settings["cache_gb"])
        download_all(source.files, raw, mirror=mirror, subfolder=name, cache=cache)
        return
    with atomic_write(raw) as folder:
        folder.mkdir()
        with rename_in_errors(store_copy(copy, folder), copy):
            source.read(folder)


if __name__ == "__main__":
    run(main)
