"""What the report tells of one data set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from heated.analysis.claims import assess_claims
from heated.reporting.costs import costs
from heated.reporting.figures import Figure, figures
from heated.reporting.gallery import Example
from heated.reporting.makings import Makings, legend, makings
from heated.reporting.results import Result
from heated.reporting.tables import Table, tables
from heated.reporting.verdicts import Grids, Judgement, Verdict, verdict


@dataclass(frozen=True)
class Chapter:
    """Results on a data set. section: what params.yaml says of it; grids: datasets and methods of
    `run` and of each study; claims: what is tested, by name; examples: the neighbour gallery."""

    dataset: str
    section: Mapping[str, Any]
    grids: Grids
    claims: Mapping[str, Mapping[str, Any]]
    results: Sequence[Result]
    examples: Sequence[Example]

    @property
    def studies(self) -> dict[str, list[str]]:
        """The methods of `run` and of each study that were trained on the data set."""
        grids = self.grids.items()
        return {name: list(g["methods"]) for name, g in grids if self.dataset in g["datasets"]}

    @cached_property
    def judgements(self) -> list[Judgement]:
        """What became of each claim."""
        values = {result.method: result.values() for result in self.results}
        return [*assess_claims(self.claims, values, self.dataset)]

    @property
    def verdicts(self) -> list[Verdict]:
        """The judgements in words."""
        return [verdict(each, self.results, self.section, self.grids) for each in self.judgements]

    @cached_property
    def tables(self) -> list[Table]:
        """A table a study."""
        return tables(self.results, self.studies, self.section)

    @cached_property
    def figures(self) -> list[Figure]:
        """What is drawn of the results."""
        return figures(self.results, self.studies)

    @cached_property
    def costs(self) -> list[Result]:
        """The competitors' runs."""
        return costs(self.results, self.studies)

    @property
    def legend(self) -> str:
        """What the tables' numbers are."""
        return legend(self.results)

    @property
    def makings(self) -> Makings:
        """How the results were made."""
        return makings(self.results)
