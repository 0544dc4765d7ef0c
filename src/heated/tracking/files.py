"""The files beside a run's numbers: what it left, its curves as one figure, and pictures of each
seed's embeddings, at the end and by epoch, where they have two dimensions."""

from dataclasses import replace
from pathlib import Path

from heated.common.io import required
from heated.reporting.figures import FIGURES, draw_figure
from heated.reporting.figures.planes import draw_epoch_embeddings
from heated.reporting.results import Result

LEFT = ("history.csv", "metrics.json", "provenance.json")


def of_run(result: Result) -> dict[int | None, dict[str, str]]:
    """Texts by path, of each seed, and under None of the run."""
    left = {name: (result.folder / name).read_text(encoding="utf-8") for name in LEFT}
    curves = draw_figure("curves", [result], {"run": [result.method]})
    assert curves is not None
    found: dict[int | None, dict[str, str]] = {None: {**left, "curves.svg": curves.svg}}
    return found | {seed: pictures(result, seed) for seed in result.history}


def pictures(result: Result, seed: int) -> dict[str, str]:
    """Pictures of a seed's embeddings in two dimensions, by path; none where it has more."""
    alone = replace(result, history={seed: result.history[seed]})
    drawn = draw_figure("planes", [alone], {"planes": [result.method]})
    if drawn is None:
        return {}
    epochs = {
        f"epochs/epoch-{at:04}.svg": each for at, each in draw_epoch_embeddings(alone, seed).items()
    }
    return {"embeddings.svg": drawn.svg, **epochs}


def of_report(report: Path, dataset: str) -> dict[str, str]:
    """The report's page, with the tables and figures of a data set."""
    tables = [f"tables/{dataset}.{kind}" for kind in ("md", "csv", "tex")]
    drawn = [f"figures/{dataset}-{name}.svg" for name in FIGURES]
    there = [name for name in drawn if (report / name).exists()]
    names = ["index.html", *tables, *there]
    return {name: required(report / name, "report").read_text(encoding="utf-8") for name in names}
