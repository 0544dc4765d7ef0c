"""The page: report/index.html, one file that needs no network."""

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from heated.reporting.results import Result
from heated.reporting.tables import legend, table

ENVIRONMENT = {
    "device": "processor",
    "cores": "cores",
    "system": "system",
    "python": "Python",
    "torch": "torch",
    "torchvision": "torchvision",
    "numpy": "NumPy",
    "scikit-learn": "scikit-learn",
}


def page(results: Mapping[str, Sequence[Result]], figures: Mapping[str, str]) -> str:
    """HTML with a section a data set: table, curves (SVG), and how it was made."""
    environment = Environment(
        loader=PackageLoader("heated.reporting", "."),
        autoescape=select_autoescape(),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    sections = [section(result, figures[dataset]) for dataset, result in results.items()]
    return environment.get_template("page.html").render(sections=sections)


def section(results: Sequence[Result], svg: str) -> dict[str, Any]:
    """What the template shows of one data set."""
    heading, rows = table(results)
    return {
        "dataset": results[0].dataset,
        "heading": heading,
        "rows": rows,
        "legend": legend(results),
        "curves": Markup(svg[svg.index("<svg") :]),  # made by matplotlib, so no escaping
        "heated": {r.method: r.heated_at() for r in results if r.heated_at() is not None},
        "makings": makings(results),
    }


def makings(results: Sequence[Result]) -> list[tuple[str, str]]:
    """How the results were made: each fact with the values it had in the runs."""
    facts = {
        shown: sorted({str(r.record["environment"][key]) for r in results})
        for key, shown in ENVIRONMENT.items()
    }
    facts["commit"] = sorted({commit(r.record["source"]) for r in results})
    facts["data SHA-256"] = sorted({r.record["data_sha256"] for r in results})
    seconds = sum(seed["seconds"] for r in results for seed in r.record["seeds"].values())
    facts["training"] = [f"{seconds:.0f} s in all"]
    return [(name, ", ".join(values)) for name, values in facts.items()]


def commit(source: dict[str, Any]) -> str:
    """The commit, and whether the tree differed from it."""
    if source["commit"] is None:
        return "not in a git repository"
    return str(source["commit"])[:12] + (" with changes" if source["modified"] else "")
