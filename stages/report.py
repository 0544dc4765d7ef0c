"""Write the report and metrics.json: page, tables, claims, figures and curves of all runs."""

from pathlib import Path

from heated.common.errors import run
from heated.common.io import (
    RUNS,
    atomic_write,
    load_settings,
    packed_folder,
    run_folder,
    write_json,
)
from heated.reporting.query_gallery import load_gallery
from heated.reporting.release import make_dataset_report, write_report
from heated.reporting.run_results import headline_means, read_results
from heated.runtime.device import setup_device


def main() -> None:
    """Write report/ and metrics.json."""
    settings = load_settings("report.json")
    setup_device(settings["threads"])
    reports = []
    for dataset, resolved in settings["datasets"].items():
        section, count = resolved["section"], resolved["gallery_queries"]
        results = read_results(RUNS, dataset, resolved["methods"])
        folder = run_folder(dataset, settings["gallery_method"])
        embeddings = folder / f"embeddings/seed-{settings['gallery_seed']}.npz"
        options = {"count": count, "memory_mib": section["evaluation"]["memory_mib"]}
        gallery = load_gallery(packed_folder(dataset), embeddings, **options)
        texts = {"grids": settings["grids"], "claims": settings["claims"], "gallery": gallery}
        reports.append(make_dataset_report(results, section, **texts))
    with atomic_write(Path("report")) as folder:
        write_report(folder, reports)
    means = {report.dataset: headline_means(report.results) for report in reports}
    write_json(Path("metrics.json"), means)


if __name__ == "__main__":
    run(main)
