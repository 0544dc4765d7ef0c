"""Download a data set's files and verify their checksums, or accept a local copy by its counts."""

from heated.common.cli import run
from heated.common.io import project_root, whole
from heated.common.paths import SIDE_SETTINGS, raw_folder, resolved
from heated.datasets import SOURCES, local_copy
from heated.datasets.download import Cache, gather, mirror_from


def main(dataset: str) -> None:
    """Write the archives of a data set."""
    choice = dict(resolved(f"sources/{dataset}.json")["source"])
    name = choice.pop("name")
    source, raw = SOURCES[name](**choice), raw_folder(dataset)
    settings = resolved(SIDE_SETTINGS)["download"]
    mirror = mirror_from(settings["mirror"])
    copy = local_copy.found(source, mirror, name)
    if copy is None:
        cache = Cache(project_root() / settings["cache"], settings["cache_gb"])
        gather(source.files, raw, mirror=mirror, subfolder=name, cache=cache)
        return
    with whole(raw) as folder:
        folder.mkdir()
        local_copy.collect(copy, folder)
        source.read(folder)


if __name__ == "__main__":
    run(main)
