"""The files beside a run's numbers: what it left, its curves as one figure, and a picture of each
seed's embeddings where they have two dimensions."""

from dataclasses import replace
from pathlib import Path

import matplotlib as mpl

from heated.files import required
from heated.reporting.figures import FIGURES, curves, planes
from heated.reporting.figures.figure import STYLE
from heated.reporting.results import Result

LEFT = ("history.csv", "metrics.json", "provenance.json")


def of_run(result: Result) -> dict[int | None, dict[str, str]]:
    """Texts by path, of each seed, and under None of the run."""
    left = {name: (result.folder / name).read_text(encoding="utf-8") for name in LEFT}
    found: dict[int | None, dict[str, str]] = {None: {**left, "curves.svg": curves([result])}}
    return found | {seed: picture(result, seed) for seed in result.history}


def picture(result: Result, seed: int) -> dict[str, str]:
    """A seed's embeddings in two dimensions; none where it has more."""
    alone = replace(result, history={seed: result.history[seed]})
    with mpl.rc_context(STYLE):
        drawn = planes.figure([alone], {"planes": [result.method]})
    return {} if drawn is None else {"embeddings.svg": drawn.svg}


def of_report(report: Path, dataset: str) -> dict[str, str]:
    """The report's page, with the tables and figures of a data set."""
    tables = [f"tables/{dataset}.{kind}" for kind in ("md", "csv", "tex")]
    drawn = [f"figures/{dataset}-{name}.svg" for name in FIGURES]
    there = [name for name in drawn if (report / name).exists()]
    names = ["index.html", *tables, *there]
    return {name: required(report / name, "report").read_text(encoding="utf-8") for name in names}
