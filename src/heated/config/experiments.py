"""The types of the studies, claims and report."""

from collections.abc import Iterator
from itertools import product
from math import prod
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator
from pydantic.functional_validators import AfterValidator

from heated.config.base import Name, NotNegative, Positive, Section, Seed, distinct
from heated.config.dataset import Validation

MOST_POINTS = 1000  # of a grid: each one is a training
Names = Annotated[list[Name], AfterValidator(distinct)]
Seeds = Annotated[list[Seed], Field(min_length=1), AfterValidator(distinct)]


class Grid(Section):
    """Every data set with every method, each with all seeds; nothing without a data set."""

    datasets: Names
    methods: Annotated[Names, Field(min_length=1)]
    seeds: Seeds

    def runs(self) -> Iterator[tuple[str, str]]:
        """Return all pairs of data set and method."""
        return product(self.datasets, self.methods)


class Axis(Section):
    """A setting that is varied, by its key (`lr`, `loss.margin`), over its values."""

    vary: str
    over: Annotated[list[Any], Field(min_length=1)]


class Competitors(Grid):
    """Methods on equal terms: each one's settings are chosen from its `grid` on a fold of the
    training classes, with one seed, before it is trained with all."""

    validation: Validation
    tuning_seed: Seed
    grid: dict[Name, Annotated[list[Axis], Field(min_length=1)]]

    def points(self, method: str) -> list[dict[str, Any]]:
        """Return every combination of the values in a method's grid."""
        names, values = zip(*((axis.vary, axis.over) for axis in self.grid[method]), strict=True)
        return [dict(zip(names, each, strict=True)) for each in product(*values)]

    @model_validator(mode="after")
    def equal_terms(self) -> Self:
        """Raise ValueError unless every method has a grid, and all are of one size."""
        if set(self.grid) != set(self.methods):
            odd = ", ".join(sorted(set(self.grid) ^ set(self.methods)))
            raise ValueError(f"the same names in `grids` as in `methods` (not in both: {odd})")
        sizes = {name: prod(len(axis.over) for axis in self.grid[name]) for name in self.methods}
        if len(set(sizes.values())) > 1 or max(sizes.values()) > MOST_POINTS:
            raise ValueError(
                f"grids of one size, at most {MOST_POINTS} points, for every method (got {sizes})"
            )
        return self


class Gradients(Section):
    methods: Names
    alphas: Annotated[list[Positive], Field(min_length=2), AfterValidator(distinct)]
    samples: Annotated[int, Field(ge=10)]


class Studies(Section):
    alphas: Grid
    dimensions: Grid
    timing: Grid
    shapes: Grid
    planes: Grid
    competitors: Competitors
    gradients: Gradients

    def grids(self) -> dict[str, Grid]:
        """Return the studies that train, by name."""
        return {name: study for name, study in self if isinstance(study, Grid)}


class Comparison(Section):
    """The mean of a metric over the methods `more` minus that over `less`, seed by seed; the claim
    is that it is above -`margin`."""

    metric: str
    more: Annotated[list[Name], Field(min_length=1)]
    less: Annotated[list[Name], Field(min_length=1)]
    margin: NotNegative

    @model_validator(mode="after")
    def contrast(self) -> Self:
        """Raise ValueError unless both sides are of one length."""
        if len(self.more) != len(self.less):
            raise ValueError("as many methods in `more` as in `less`")
        return self


class Claim(Section):
    """A hypothesis. Confirmatory: stated before the seeds that test it were trained.

    Attributes:
        stated: The commit that stated it, or empty.
        first_seed: A confirmatory claim is tested by this seed and later ones.
        smallest_effect: Differences within +- this are of no interest. Of Recall@1: 0.005 is half
            a percentage point.
    """

    says: str
    origin: Literal["paper", "authors", "open"]
    status: Literal["exploratory", "confirmatory"] = "exploratory"
    stated: str | None = None
    first_seed: Seed = 0
    smallest_effect: Positive = 0.005
    all: Annotated[list[Comparison], Field(min_length=1)]

    @model_validator(mode="after")
    def stated_beforehand(self) -> Self:
        """ValueError for a confirmatory claim without its commit and first seed."""
        if self.status == "confirmatory" and not (self.stated and self.first_seed):
            raise ValueError(
                "`stated` and `first_seed` of a confirmatory claim: the commit that stated it, and "
                "the first seed that was trained after that"
            )
        return self


class Report(Section):
    gallery: Annotated[int, Field(ge=0)]
    gallery_method: Name
