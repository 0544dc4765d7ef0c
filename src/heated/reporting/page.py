"""The report's files: the page, which needs no network, tables, claims, figures and curves."""

from collections.abc import Sequence
from pathlib import Path

from heated.common.io import write_csv, write_json, write_text
from heated.reporting import costs, release
from heated.reporting.chapters import Chapter
from heated.reporting.html import environment
from heated.reporting.results import curve_rows
from heated.reporting.tables import csv_rows, latex, markdown, percent
from heated.reporting.verdicts import counts


def page(chapters: Sequence[Chapter]) -> str:
    """HTML: verdicts, tables, figures, neighbours, and how it was made, of each data set."""
    templates = environment()
    templates.filters |= {"counts": counts, "percent": percent}
    templates.filters |= {"cost_rows": costs.rows, "cost_told": costs.told}
    return templates.get_template("reporting/templates/page.html").render(chapters=chapters)


def write(folder: Path, chapters: Sequence[Chapter]) -> None:
    """index.html, table.md, claims.json and curves.csv of all data sets; `tables`, `figures` and
    `results` with files of each."""
    write_text(folder / "index.html", page(chapters))
    write_json(folder / "claims.json", [one for each in chapters for one in each.judgements])
    write_csv(folder / "curves.csv", [row for each in chapters for row in curve_rows(each.results)])
    texts = {
        each.dataset: markdown(each.dataset, each.legend, each.tables) + costs.markdown(each.costs)
        for each in chapters
    }
    write_text(folder / "table.md", "\n".join(texts.values()))
    release.write(folder / "results", chapters)
    for each in chapters:
        table = folder / "tables" / each.dataset
        write_text(table.with_name(f"{table.name}.md"), texts[each.dataset])
        write_text(table.with_name(f"{table.name}.tex"), latex(each.tables))
        write_csv(table.with_name(f"{table.name}.csv"), csv_rows(each.results, each.tables))
        for figure in each.figures:
            write_text(folder / "figures" / f"{each.dataset}-{figure.name}.svg", figure.svg)
