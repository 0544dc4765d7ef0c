"""Make and write the report, and release its results: Markdown for readers, JSON for programs.

`make results` runs `python -m heated.reporting.release`, which copies the last report's results to
`results/` and rewrites RESULTS.md from all released results.
"""

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heated.analysis.claims import assess_claims
from heated.common.errors import run
from heated.common.io import read_json, require_output, write_csv, write_json, write_text
from heated.common.outputs import check_outputs
from heated.reporting import main_effects, tables, training_length, verdicts
from heated.reporting.figures import draw_figures
from heated.reporting.figures.base import ReportFigure
from heated.reporting.html import template_environment
from heated.reporting.paper_results import departures
from heated.reporting.query_gallery import GalleryQuery
from heated.reporting.run_results import (
    Provenance,
    RunResult,
    collect_provenance,
    curve_rows,
    select_studies,
    table_caption,
)
from heated.reporting.tables import CostTable

RELEASED_FIGURES = ("curves", "embeddings_2d")


@dataclass(frozen=True)
class DatasetReport:
    """The results on one data set, as numbers and as text."""

    dataset: str
    studies: dict[str, list[str]]  # the trained methods
    results: Sequence[RunResult]
    claim_results: Sequence[verdicts.ClaimResult]
    claims: list[verdicts.ClaimText]  # the same in words
    caption: str
    tables: list[tables.StudyTable]
    costs: CostTable | None
    figures: list[ReportFigure]
    gallery: Sequence[GalleryQuery]
    provenance: Provenance
    departures: dict[str, list[str]]  # from the paper's protocol, by method
    test_classes: dict[str, dict[str, Any]]  # main effects by test class, by claim


def make_dataset_report(
    results: Sequence[RunResult],
    section: Mapping[str, Any],
    *,
    grids: verdicts.Grids,
    claims: Mapping[str, Mapping[str, Any]],
    gallery: Sequence[GalleryQuery] = (),
) -> DatasetReport:
    """Test the claims on a data set, tabulate the results of all its runs and draw its figures."""
    dataset = results[0].dataset
    studies = {n: list(g["methods"]) for n, g in grids.items() if dataset in g["datasets"]}
    values = {result.method: result.values_by_seed() for result in results}
    claim_results = [*assess_claims(claims, values, dataset)]
    tuned = select_studies(results, studies, "competitors", "heated_partners")
    return DatasetReport(
        dataset=dataset,
        studies=studies,
        results=results,
        claim_results=claim_results,
        claims=[verdicts.describe_claim(each, results, section, grids) for each in claim_results],
        caption=table_caption(results),
        tables=tables.study_tables(results, studies, section),
        costs=tables.cost_table(tuned) if tuned else None,
        figures=draw_figures(results, studies),
        gallery=gallery,
        provenance=collect_provenance(results),
        departures={result.method: departures(result.record, section) for result in results},
        test_classes=main_effects.effects_by_class(claims, results),
    )


def render_report(reports: Sequence[DatasetReport]) -> str:
    """Render the HTML page of all data sets."""
    templates = template_environment()
    templates.filters["percent"] = tables.format_percent
    every = [results_document(report) for report in reports]
    differences = {each["dataset"]: each["departures"] for each in every if each["departures"]}
    effects = main_effects.effect_rows(every)
    shown = main_effects.with_effects(every)
    return templates.get_template("reporting/templates/page.html").render(
        reports=reports,
        departures=differences,
        changed=[*dict.fromkeys(each.split()[0] for each in sum(differences.values(), []))],
        sentences=main_effects.summary_sentences(shown or every),
        effects=effects,
        effects_heading=main_effects.EFFECTS_HEADING,
        forest=main_effects.forest_plot(shown) if shown else None,
        summary=main_effects.front_page(every)["sentences"],
    )


def write_report(folder: Path, reports: Sequence[DatasetReport]) -> None:
    """Write the HTML page, which works offline, and the tables, claims, figures and curves."""
    write_text(folder / "index.html", render_report(reports))
    write_json(folder / "claims.json", [one for each in reports for one in each.claim_results])
    write_csv(folder / "curves.csv", [row for each in reports for row in curve_rows(each.results)])
    texts, documents = [], [*map(results_document, reports)]
    if shown := main_effects.with_effects(documents):
        write_text(folder / "figures/forest.svg", main_effects.forest_plot(shown))
    for report, document in zip(reports, documents, strict=True):
        name = report.dataset
        costs = f"\n{report.costs.markdown()}\n" if report.costs else ""
        text = tables.tables_markdown(name, report.caption, report.tables) + costs
        texts.append(text)
        write_text(folder / f"tables/{name}.md", text)
        write_text(folder / f"tables/{name}.tex", tables.latex_tabular(report.tables))
        write_csv(folder / f"tables/{name}.csv", tables.csv_rows(report.results, report.tables))
        for figure in report.figures:
            write_text(folder / f"figures/{name}-{figure.name}.svg", figure.svg)
        write_json(folder / f"results/{name}.json", document)
        write_text(folder / f"results/{name}.md", results_markdown(report))
    write_text(folder / "table.md", "\n".join(texts))


def results_document(report: DatasetReport) -> dict[str, Any]:
    """Collect a data set's results for programs; metrics are in [0, 1]."""
    found = {result.method: result for result in report.results}
    before = {m: each for m, r in found.items() if (each := r.accuracy_before_heating())}
    accuracies = {m: result.values_by_seed().get("accuracy") for m, result in found.items()}
    return {
        "dataset": report.dataset,
        "departures": [*dict.fromkeys(sum(report.departures.values(), []))],
        "split": report.results[0].record["split"],
        "made": dict(report.provenance.facts),
        "parameters": report.provenance.shared,
        "methods": report.provenance.by_method,
        "commands": repro_commands(report),
        "studies": {
            study: {method: found[method].metrics for method in methods}
            for study, methods in report.studies.items()
        },
        # Training accuracy in the last epoch, by method and seed.
        "accuracy": {method: accuracy for method, accuracy in accuracies.items() if accuracy},
        "accuracy_before_heating": before,
        "tuned": {method: result.tuned for method, result in found.items() if result.tuned},
        "claims": report.claim_results,
        "test_classes": report.test_classes,
    }


def results_markdown(report: DatasetReport) -> str:
    """Format a data set's results for readers, in percent."""
    departures = {}
    for study, methods in report.studies.items():
        lists = [report.departures[method] for method in methods]
        departures[study] = "; ".join(dict.fromkeys(sum(lists, []))) or "none"
    template = template_environment().get_template("reporting/templates/results.md")
    records = [result.record for result in report.results]
    on_gpu = any(record["environment"].get("device_type") == "cuda" for record in records)
    deterministic = all(record["params"].get("deterministic") for record in records)
    parts = {
        "device": "GPU" if on_gpu else "CPU",
        "same_digits": deterministic or not on_gpu,
        "departures": departures,
        "claims": claims_markdown(report.claim_results),
        "classes": main_effects.class_table(results_document(report)),
        "commands": repro_commands(report),
        "figures": [each for each in report.figures if each.name in RELEASED_FIGURES],
    }
    text = template.render(report=report, **parts)
    return f"{text}\n"


def claims_markdown(claims: Sequence[verdicts.ClaimResult]) -> str:
    """Format the section on the claims: the rules, one row per tested claim, and the others."""
    tested = [claim for claim in claims if claim["verdict"] != "not run"]
    rows = []
    for claim in tested:
        interval = claim["interval"] and [*map(tables.format_points, claim["interval"])]
        margin = f" > {tables.format_points(-claim['margin'])}" if claim["margin"] else ""
        row = [
            f"{claim['statement']} ({claim['status']})",
            f"{claim['metric']}: {verdicts.comparison_title(claim)}{margin}",
            "" if claim["effect"] is None else tables.format_points(claim["effect"]),
            f"[{', '.join(interval)}]" if interval else "",
            str(claim["n"]),
            "" if claim["p"] is None else verdicts.format_deciding_p(claim)[1],
            *(f"{verdicts.SYMBOLS[claim[k]]} {claim[k]}" for k in ("verdict", "verdict_adjusted")),
        ]
        rows.append(row)
    heading = ["claim", "comparison", "effect", "95 % CI", "n", "adjusted p", "verdict", "adjusted"]
    template = template_environment().get_template("reporting/templates/claims.md")
    table = tables.markdown_table(heading, rows) if rows else ""
    return template.render(table=table, not_run=len(claims) - len(tested)).rstrip()


def repro_commands(report: DatasetReport) -> list[str]:
    """Return the command that makes all results, and the one for one method and one seed."""
    seeds_by_method = {result.method: sorted(result.history) for result in report.results}
    every: dict[str, Any] = {"studies.yaml:studies.embeddings_2d.datasets": []}
    if "run" not in report.studies:  # which cannot be empty
        every |= {"run.methods": ["hbn"], "run.seeds": [0]}
    single: dict[str, Any] = {}
    for name, methods in report.studies.items():
        study = name if name == "run" else f"studies.yaml:studies.{name}"
        seeds = max((seeds_by_method[method] for method in methods), key=len)
        every[f"{study}.datasets"] = [report.dataset]
        one = {f"{study}.methods": methods[-1:], f"{study}.seeds": seeds[:1]}
        single = single or every | one | needed_settings(name, methods[-1:])
        every |= {f"{study}.methods": methods, f"{study}.seeds": seeds}
        every |= needed_settings(name, methods)
    commands = []
    for settings in (every, single):
        lines = [f"--set-param '{key}={yaml_value(value)}'" for key, value in settings.items()]
        commands.append(" \\\n  ".join(["dvc exp run", *lines]))
    return commands


def yaml_value(value: Sequence[Any] | str) -> str:
    """Return a text, or a list of values, as DVC's command line takes it."""
    return value if isinstance(value, str) else f"[{','.join(map(str, value))}]"


def needed_settings(study: str, methods: Sequence[str]) -> dict[str, Any]:
    """Return what must change with `run.methods`, if they are not those of params.yaml.

    The gallery and the gradients need a method that is trained. Both are of hbn.
    """
    if study != "run" or "hbn" in methods:
        return {}
    gradients: dict[str, Any] = {"studies.yaml:studies.gradients.methods": []}
    return {"report.gallery_method": methods[-1]} | gradients


def release_results(report: Path, results: Path, joined: Path) -> None:
    """Copy a report's results to a folder, and join the Markdown of all releases in it.

    Former figures of the report's data sets are removed.
    """
    results.mkdir(exist_ok=True)
    files = sorted(require_output(report / "results", "report").iterdir())
    for dataset in {path.stem for path in files}:
        for name in RELEASED_FIGURES:
            figure = report / f"figures/{dataset}-{name}.svg"
            (results / figure.name).unlink(missing_ok=True)
            files += [figure] if figure.exists() else []
    for path in files:
        shutil.copyfile(path, results / path.name)
    join_results(results, joined)


def join_results(results: Path, joined: Path) -> None:
    """Write the Markdown of all data sets into one file, and the forest plot to `results`."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(results.glob("*.md"))]
    documents = [read_json(path) for path in sorted(results.glob("*.json"))]
    write_text(results / "forest.svg", main_effects.forest_plot(documents))
    lengths = []
    for group in training_length.equal_images(documents):
        name = f"length-{group[-1]['dataset']}"
        write_text(results / f"{name}.svg", training_length.length_plot(group))
        lengths.append({"figure": name, "table": training_length.length_table(group)})
    template = template_environment().get_template("reporting/templates/results_head.md")
    faithful = [each["dataset"] for each in documents if not each["departures"]]
    page = main_effects.front_page(documents) | {"lengths": lengths, "faithful": faithful}
    head = template.render(page)
    write_text(joined, "\n".join([f"{head}\n", *map(links_from_root, texts)]))


def links_from_root(text: str) -> str:
    """Let links of a file in `results/` be those of a file in the folder above.

    >>> links_from_root("[a](b.svg), [c](../docs/d.md)")
    '[a](results/b.svg), [c](docs/d.md)'
    """
    return re.sub(r"\]\((?=[\w-]+\.svg\))", "](results/", text).replace("](../", "](")


def main() -> None:
    """Release the project's last report."""
    check_outputs([Path("report")])
    release_results(Path("report"), Path("results"), Path("RESULTS.md"))


if __name__ == "__main__":
    run(main)
