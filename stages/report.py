"""Write the report and metrics.json: page, tables, claims, figures and curves of all runs."""

from pathlib import Path
from typing import Any

from heated.common.cli import run
from heated.common.io import atomic_write, write_json
from heated.common.paths import RUNS, load_settings, packed_folder, run_folder
from heated.reporting.query_gallery import load_gallery
from heated.reporting.release import DatasetReport, make_dataset_report, write_report
from heated.reporting.run_results import headline_means, read_results
from heated.runtime.device import setup_device


def main() -> None:
    """Write report/ and metrics.json."""
    settings = load_settings("report.json")
    setup_device(settings["threads"])
    reports = [report_on(settings, dataset) for dataset in settings["datasets"]]
    with atomic_write(Path("report")) as folder:
        write_report(folder, reports)
    means = {report.dataset: headline_means(report.results) for report in reports}
    write_json(Path("metrics.json"), means)


def report_on(settings: dict[str, Any], dataset: str) -> DatasetReport:
    """Read all runs on a data set, and the nearest neighbors of some test images."""
    resolved = settings["datasets"][dataset]
    section, count = resolved["section"], resolved["gallery_queries"]
    results = read_results(RUNS, dataset, resolved["methods"])
    folder = run_folder(dataset, settings["gallery_method"])
    embeddings = folder / f"embeddings/seed-{settings['gallery_seed']}.npz"
    options = {"count": count, "memory_mib": section["evaluation"]["memory_mib"]}
    gallery = load_gallery(packed_folder(dataset), embeddings, **options)
    texts = {"grids": settings["grids"], "claims": settings["claims"], "gallery": gallery}
    return make_dataset_report(results, section, **texts)


if __name__ == "__main__":
    run(main)
