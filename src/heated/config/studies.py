"""The types of the studies: what is trained beside `run`, and what is asked of it."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from pydantic.functional_validators import AfterValidator

from heated.config.base import Name, NotNegative, Positive, Section, Seed, distinct

Names = Annotated[list[Name], AfterValidator(distinct)]
Seeds = Annotated[list[Seed], Field(min_length=1), AfterValidator(distinct)]


class Grid(Section):
    """Every data set with every method, each with all seeds; nothing where no data set stands."""

    datasets: Names
    methods: Annotated[Names, Field(min_length=1)]
    seeds: Seeds


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
    gradients: Gradients

    def grids(self) -> dict[str, Grid]:
        """The studies that train, by name."""
        found = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: study for name, study in found.items() if isinstance(study, Grid)}


class Comparison(Section):
    """The sum of a metric over the methods `more` less that over the methods `less`, seed by seed;
    the claim has it above -`margin`."""

    metric: str
    more: Annotated[list[Name], Field(min_length=1)]
    less: Annotated[list[Name], Field(min_length=1)]
    margin: NotNegative

    @model_validator(mode="after")
    def contrast(self) -> Self:
        """ValueError unless both sides are of one length: else the sum is no difference."""
        if len(self.more) != len(self.less):
            raise ValueError("as many methods in `more` as in `less`")
        return self


class Claim(Section):
    says: str
    origin: Literal["paper", "authors", "open"]
    all: Annotated[list[Comparison], Field(min_length=1)]


class Report(Section):
    gallery: Annotated[int, Field(ge=0)]
    gallery_method: Name
