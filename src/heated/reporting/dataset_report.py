"""Everything that the report shows for one data set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from heated.analysis.claims import assess_claims
from heated.reporting.figures import draw_figures
from heated.reporting.figures.base import ReportFigure
from heated.reporting.paper_results import departures
from heated.reporting.provenance import Provenance, collect_provenance, table_caption
from heated.reporting.query_gallery import GalleryQuery
from heated.reporting.run_results import RunResult, select_studies
from heated.reporting.tables import CostTable, StudyTable, cost_table, study_tables
from heated.reporting.verdicts import ClaimResult, ClaimText, Grids, describe_claim


@dataclass(frozen=True)
class DatasetReport:
    """The results on one data set, as numbers and as text."""

    dataset: str
    studies: dict[str, list[str]]  # the trained methods
    results: Sequence[RunResult]
    claim_results: Sequence[ClaimResult]
    claims: list[ClaimText]  # the same in words
    caption: str
    tables: list[StudyTable]
    costs: CostTable | None
    figures: list[ReportFigure]
    gallery: Sequence[GalleryQuery]
    provenance: Provenance
    departures: dict[str, list[str]]  # from the paper's protocol, by method


def make_dataset_report(
    results: Sequence[RunResult],
    section: Mapping[str, Any],
    *,
    grids: Grids,
    claims: Mapping[str, Mapping[str, Any]],
    gallery: Sequence[GalleryQuery] = (),
) -> DatasetReport:
    """Test the claims on a data set, tabulate its results and draw its figures.

    `results` are all runs on the data set, `section` is its section of the configuration.
    """
    dataset = results[0].dataset
    studies = {n: list(g["methods"]) for n, g in grids.items() if dataset in g["datasets"]}
    values = {result.method: result.values_by_seed() for result in results}
    claim_results = [*assess_claims(claims, values, dataset)]
    competitors = select_studies(results, studies, "competitors")
    return DatasetReport(
        dataset=dataset,
        studies=studies,
        results=results,
        claim_results=claim_results,
        claims=[describe_claim(each, results, section, grids) for each in claim_results],
        caption=table_caption(results),
        tables=study_tables(results, studies, section),
        costs=cost_table(competitors) if competitors else None,
        figures=draw_figures(results, studies),
        gallery=gallery,
        provenance=collect_provenance(results),
        departures={result.method: departures(result.record, section) for result in results},
    )
