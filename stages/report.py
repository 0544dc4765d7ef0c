"""The page, the table, the curves, and one summary of all configured runs."""

from pathlib import Path

from heated import config
from heated.command import run
from heated.files import whole, write_csv, write_json, write_text
from heated.reporting.figures import curves
from heated.reporting.page import page
from heated.reporting.results import curve_rows, headlines, read_results
from heated.reporting.tables import markdown


def main(runs: Path, index: Path, table: Path, figures: Path, history: Path, metrics: Path) -> None:
    """`runs`: the folder of all runs; written are HTML, Markdown, SVGs, CSV and JSON."""
    params = config.load().run
    results = {name: read_results(runs, name, params.methods) for name in params.datasets}
    drawn = {name: curves(result) for name, result in results.items()}
    write_text(index, page(results, drawn))
    write_text(table, "\n".join(markdown(result) for result in results.values()))
    write_csv(history, [row for result in results.values() for row in curve_rows(result)])
    with whole(figures) as folder:
        folder.mkdir()
        for name, svg in drawn.items():
            write_text(folder / f"{name}.svg", svg)
    write_json(metrics, {name: headlines(result) for name, result in results.items()})


if __name__ == "__main__":
    run(main)
