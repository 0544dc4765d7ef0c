"""Write the report and metrics/: page, tables, claims, figures and curves of all runs."""

from pathlib import Path

from heated.common import io
from heated.common.errors import run
from heated.reporting.figures.heating_pair import PAIRS
from heated.reporting.query_gallery import load_gallery
from heated.reporting.release import make_dataset_report, write_report
from heated.reporting.run_results import headline_means, read_results
from heated.runtime.device import setup_device


def main() -> None:
    """Write report/ and metrics/."""
    settings = io.load_settings("report.json")
    setup_device(**settings["machine"])
    reports = []
    for dataset, resolved in settings["datasets"].items():
        section, count = resolved["section"], resolved["gallery_queries"]
        results = read_results(io.RUNS, dataset, resolved["methods"], resolved["files"])
        heated, file = settings["gallery_method"], f"embeddings/seed-{settings['gallery_seed']}.npz"
        pair = dict.fromkeys([heated, PAIRS.get(heated, heated)])
        shown = [method for method in pair if method in resolved["methods"]]
        embeddings = {method: io.run_folder(dataset, method) / file for method in shown}
        options = {"count": count, "memory_mib": section["evaluation"]["memory_mib"]}
        gallery = load_gallery(io.packed_folder(dataset), embeddings, **options)
        texts = {"grids": settings["grids"], "claims": settings["claims"], "gallery": gallery}
        reports.append(make_dataset_report(results, section, **texts))
    with io.atomic_write(Path("report")) as folder:
        write_report(folder, reports)
    with io.atomic_write(Path("metrics")) as folder:
        for result in (each for report in reports for each in report.results):
            io.write_json(folder / result.dataset / f"{result.method}.json", headline_means(result))


if __name__ == "__main__":
    run(main)
