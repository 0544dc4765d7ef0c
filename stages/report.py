"""Write the report: page, tables, claims, figures and curves of all runs, and a summary for dvc."""

from pathlib import Path
from typing import Any

from heated.common.cli import run
from heated.common.io import whole, write_json
from heated.common.paths import RUNS, packed_folder, resolved, run_folder
from heated.reporting.chapters import Chapter
from heated.reporting.gallery import examples
from heated.reporting.page import write
from heated.reporting.results import headlines, read_results
from heated.runtime.device import prepared


def main() -> None:
    """Write report/ and metrics.json."""
    settings = resolved("report.json")
    prepared(settings["threads"])
    chapters = [chapter(settings, dataset) for dataset in settings["datasets"]]
    with whole(Path("report")) as folder:
        write(folder, chapters)
    write_json(Path("metrics.json"), {each.dataset: headlines(each.results) for each in chapters})


def chapter(settings: dict[str, Any], dataset: str) -> Chapter:
    """Return all of a data set's runs, and neighbors of queries of the test classes."""
    given = settings["datasets"][dataset]
    section, method = given["section"], settings["gallery_method"]
    results = read_results(RUNS, dataset, given["methods"])
    embeddings = run_folder(dataset, method) / f"embeddings/seed-{settings['gallery_seed']}.npz"
    options = {"count": given["gallery"], "memory": section["evaluation"]["memory"]}
    shown = examples(packed_folder(dataset), embeddings, **options)
    return Chapter(dataset, section, settings["grids"], settings["claims"], results, shown)


if __name__ == "__main__":
    run(main)
