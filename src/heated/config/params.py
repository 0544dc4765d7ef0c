"""Schema of all parameters: runs, studies, claims, tracking and report."""

import re
from collections.abc import Iterator, Mapping
from itertools import product
from math import prod
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from heated.config import base
from heated.config.base import Name, Names, Positive, Seed, StrictModel
from heated.config.datasets import Dataset, Validation
from heated.config.methods import Method

MAX_GRID_POINTS = 1000  # each one is a training


class Grid(StrictModel):
    """Every data set with every method, each with all seeds; nothing without a data set."""

    datasets: Names
    methods: Annotated[Names, base.NonEmpty]
    seeds: base.Seeds

    def runs(self) -> Iterator[tuple[str, str]]:
        """Return all pairs of data set and method."""
        return product(self.datasets, self.methods)


class Run(Grid):
    """The main grid, and how stages are started."""

    datasets: Annotated[Names, base.NonEmpty]
    threads: base.Count
    deterministic: bool
    launcher: Annotated[
        str,
        base.constraint(
            lambda command: re.fullmatch(r"(python|torchrun( --[a-z-]+=[\w.:-]+)+) -m", command),
            "python -m, or torchrun with --option=value, and -m at the end",
        ),
    ]


class GridAxis(StrictModel):
    """A setting by its key (`lr`, `loss.margin`), and the values to try."""

    param: str
    values: Annotated[list[Any], base.NonEmpty, base.JSON_VALUE]


class TunedGrid(Grid):
    """Methods whose settings are chosen, with equal effort, before training with all seeds.

    They are chosen from each method's `grid` on a fold of the training classes, with one seed.
    """

    validation: Validation
    tuning_seed: Seed
    grid: dict[Name, Annotated[list[GridAxis], base.NonEmpty]]

    def points(self, method: str) -> list[dict[str, Any]]:
        """Return every combination of the values in a method's grid."""
        axes = self.grid[method]
        keys, points = [axis.param for axis in axes], product(*(axis.values for axis in axes))
        return [dict(zip(keys, point, strict=True)) for point in points]

    @model_validator(mode="after")
    def validate_grids(self) -> Self:
        """Raise ValueError if a method has no grid, or the grids have different sizes.

        A study without data sets and without grids is not used.
        """
        if not self.datasets and not self.grid:
            return self
        if set(self.grid) != set(self.methods):
            names = ", ".join(sorted(set(self.grid) ^ set(self.methods)))
            raise ValueError(f"the same names in `grids` as in `methods` (not in both: {names})")
        sizes = {name: prod(len(axis.values) for axis in self.grid[name]) for name in self.methods}
        if len(set(sizes.values())) > 1 or max(sizes.values()) > MAX_GRID_POINTS:
            expected = f"grids of one size, at most {MAX_GRID_POINTS} points, for every method"
            raise ValueError(f"{expected} (got {sizes})")
        return self


class Gradients(StrictModel):
    """Gradient norm against alpha; trains nothing."""

    methods: Names
    alphas: Annotated[list[Positive], Field(min_length=2), base.Unique]
    samples: Annotated[int, Field(ge=10)]


class Studies(StrictModel):
    """Further experiments, each on its own data sets."""

    alphas: Grid
    embedding_dims: Grid
    timing: Grid
    schedule_shapes: Grid
    embeddings_2d: Grid
    competitors: TunedGrid
    heated_partners: TunedGrid
    gradients: Gradients

    def grids(self) -> dict[str, Grid]:
        """Return the studies that train, by name."""
        return {name: study for name, study in self if isinstance(study, Grid)}

    def tuned(self) -> dict[str, TunedGrid]:
        """Return the studies that choose settings first, by name."""
        return {name: study for name, study in self if isinstance(study, TunedGrid)}


class Comparison(StrictModel):
    """The mean of a metric over the methods `higher` minus that over `lower`, paired by seed.

    The claim is that the difference is above -`margin`.
    """

    metric: str
    higher: Annotated[list[Name], base.NonEmpty]
    lower: Annotated[list[Name], base.NonEmpty]
    margin: base.NonNegative

    @model_validator(mode="after")
    def validate_lengths(self) -> Self:
        """Raise ValueError if the sides have different lengths."""
        if len(self.higher) != len(self.lower):
            raise ValueError("as many methods in `higher` as in `lower`")
        return self


class Claim(StrictModel):
    """A hypothesis. Confirmatory: stated before the seeds that test it were trained.

    Attributes:
        stated: The commit that stated it, or empty.
        first_seed: A confirmatory claim is tested by this seed and later ones.
        smallest_effect: Differences within +- this are of no interest. For Recall@1, 0.005 is half
            a percentage point.
    """

    statement: str
    origin: Literal["paper", "authors", "open"]
    status: Literal["exploratory", "confirmatory"] = "exploratory"
    stated: str | None = None
    first_seed: Seed = 0
    smallest_effect: Positive = 0.005
    all: Annotated[list[Comparison], base.NonEmpty]

    @model_validator(mode="after")
    def validate_confirmatory(self) -> Self:
        """Raise ValueError for a confirmatory claim without its commit and first seed."""
        if self.status == "confirmatory" and not (self.stated and self.first_seed):
            keys = "`stated` and `first_seed` of a confirmatory claim: the commit that stated it,"
            raise ValueError(f"{keys} and the first seed that was trained after that")
        return self


class Download(StrictModel):
    """Where files come from, and the folder and GB that keep them."""

    mirror: str | None
    cache: Annotated[str, base.NonEmpty]
    cache_gb: base.NonNegative


class Checkpoints(StrictModel):
    """Seconds between checkpoints, and MiB of all of them."""

    interval_s: Positive
    max_size_mib: Positive


class Tracking(StrictModel):
    """Tracking with MLflow; `interval_s` in seconds, `models` to upload."""

    enabled: bool
    interval_s: Positive
    models: Literal["none", "logged", "registered"]


class Report(StrictModel):
    """Queries of each kind in the gallery, and the method that answers them."""

    gallery_queries: Annotated[int, Field(ge=0)]
    gallery_method: Name


class Params(StrictModel):
    """The sections of all files."""

    run: Run
    studies: Studies
    download: Download
    checkpoints: Checkpoints
    tracking: Tracking
    report: Report
    datasets: dict[Name, Dataset]
    methods: dict[Name, Method]
    claims: dict[Name, Claim]

    def grids(self) -> dict[str, Grid]:
        """Return everything that is trained: `run`, and the studies that train."""
        return {"run": self.run, **self.studies.grids()}

    def trained_datasets(self) -> list[str]:
        """Return the data sets that something is trained on, in the order of the grids."""
        return [*dict.fromkeys(name for grid in self.grids().values() for name in grid.datasets)]

    def seeds_by_method(self, dataset: str) -> dict[str, list[int]]:
        """Return the seeds of each method that is trained on a data set."""
        grids = [grid for grid in self.grids().values() if dataset in grid.datasets]
        return {method: grid.seeds for grid in grids for method in grid.methods}

    def runs(self) -> Iterator[tuple[str, str]]:
        """Yield data set and method of every run, by data set."""
        for dataset in self.trained_datasets():
            for method in self.seeds_by_method(dataset):
                yield dataset, method

    def tags(self, dataset: str, method: str) -> dict[str, str]:
        """Return the tags of a run; `dataset` names the images, which several recipes may share."""
        settings = self.datasets[dataset]
        source = settings.source.name
        studies = [name for name, grid in self.grids().items() if (dataset, method) in grid.runs()]
        return {
            "dataset": dataset if source == "folder" else source,  # a folder has no other name
            "recipe": dataset,
            "method": method,
            "study": ", ".join(studies),
            "backbone": settings.training.backbone.name,
        }

    def settings(
        self, dataset: str, method: str, point: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return a training's settings: the data set's, overridden by the method's.

        Args:
            dataset: Key in `datasets`.
            method: Key in `methods`.
            point: Values by key, such as `lr` or `loss.margin`, that replace the entries' values.

        Raises:
            ValidationError, KeyError, TypeError: If the point does not fit the method.
        """
        sections: list[StrictModel] = [self.datasets[dataset].training, self.methods[method]]
        for key, value in (point or {}).items():
            fields = [type(section).model_fields for section in sections]
            index = 0 if key in fields[0] and key not in fields[1] else 1
            values = sections[index].model_dump()
            inner = values
            *outer, last = key.split(".")
            for part in outer:
                inner = inner[part]
            inner[last] = value
            sections[index] = type(sections[index]).model_validate(values)
        training, overrides = (section.model_dump() for section in sections)
        return training | {key: value for key, value in overrides.items() if value is not None}

    def model_selection(self, dataset: str) -> dict[str, Any]:
        """Return a data set's packing, and the metric that may choose among its models, or None."""
        settings, metric = self.datasets[dataset], None
        if settings.packing.validation is not None:  # not measured on the test classes
            metric = f"recall_at_{settings.evaluation.recall_at[0]}"
        return {"packing": settings.packing.model_dump(), "metric": metric}
