"""The report: page, tables, claims, figures and curves of all runs, and one summary for dvc."""

from pathlib import Path

from heated import config
from heated.common.cli import run
from heated.common.io import whole, write_json
from heated.reporting.chapters import Chapter
from heated.reporting.folder import write
from heated.reporting.pictures import examples
from heated.reporting.results import headlines, read_results
from heated.runtime.device import prepared


def main(packed: Path, runs: Path, report: Path, metrics: Path) -> None:
    """`packed`, `runs`: the folders of all data sets and runs; `metrics`: JSON of a few means."""
    params = config.load()
    prepared(params.run.threads)
    names = dict.fromkeys(dataset for dataset, _ in params.runs())
    chapters = [chapter(params, name, packed / name, runs) for name in names]
    with whole(report) as folder:
        write(folder, chapters)
    write_json(metrics, {each.dataset: headlines(each.results) for each in chapters})


def chapter(params: config.Params, dataset: str, packed: Path, runs: Path) -> Chapter:
    """All of a data set's runs; neighbours where they are of classes that were not trained."""
    grids = {name: grid.model_dump() for name, grid in params.grids().items()}
    results = read_results(runs, dataset, [*params.seeds_of(dataset)])
    section, claims = params.datasets[dataset].model_dump(), params.model_dump()["claims"]
    method, seed = params.report.gallery_method, params.run.seeds[0]
    embeddings = runs / dataset / method / f"embeddings/seed-{seed}.npz"
    count = params.report.gallery if dataset in params.run.datasets else 0
    shown = examples(packed, embeddings, count=count, memory=section["evaluation"]["memory"])
    return Chapter(dataset, section, grids, claims, results, shown)


if __name__ == "__main__":
    run(main)
