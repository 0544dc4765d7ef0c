"""The types of the parameters, section by section: what each key may hold."""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.functional_validators import AfterValidator

from heated.config.base import Count, Name, NotNegative, Positive, Section
from heated.config.dataset import Evaluation, Packing, Source
from heated.config.experiments import Claim, Grid, Names, Report, Studies
from heated.config.method import Method
from heated.config.training import Training


class Dataset(Section):
    source: Source
    packing: Packing
    training: Training
    evaluation: Evaluation


def launcher(command: str) -> str:
    """Return a command; raise ValueError unless it starts a module, by torchrun or alone."""
    if not re.fullmatch(r"(python|torchrun( --[a-z-]+=[\w.:-]+)+) -m", command):
        raise ValueError("python -m, or torchrun with --option=value, and -m at the end")
    return command


def varied(section: Section, key: str, value: Any) -> Section:
    """Return the section with another value at a key such as `lr` or `loss.margin`."""
    settings = section.model_dump()
    place = settings
    *outer, last = key.split(".")
    for each in outer:
        place = place[each]
    place[last] = value
    return type(section).model_validate(settings)


class Run(Grid):
    datasets: Annotated[Names, Field(min_length=1)]
    threads: Count
    launch: Annotated[str, AfterValidator(launcher)]


class Download(Section):
    mirror: str | None
    cache: Annotated[str, Field(min_length=1)]
    cache_gb: NotNegative


class Checkpoints(Section):
    every: Positive
    budget: Positive


class Tracking(Section):
    enabled: bool
    every: Positive
    models: Literal["none", "logged", "registered"]


class Params(Section):
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
        """Return what is trained: `run`, and the studies that train."""
        return {"run": self.run, **self.studies.grids()}

    def trained_datasets(self) -> list[str]:
        """Return the data sets that something is trained on, in the order of the grids."""
        return [*dict.fromkeys(name for grid in self.grids().values() for name in grid.datasets)]

    def runs(self) -> Iterator[tuple[str, str]]:
        """Yield data set and method of all that is trained, by data set."""
        for dataset in self.trained_datasets():
            for method in self.seeds_of(dataset):
                yield dataset, method

    def seeds_of(self, dataset: str) -> dict[str, list[int]]:
        """Return the seeds of each method that is trained on a data set."""
        grids = [grid for grid in self.grids().values() if dataset in grid.datasets]
        return {method: grid.seeds for grid in grids for method in grid.methods}

    def tags(self, dataset: str, method: str) -> dict[str, str]:
        """Return what runs are grouped by.

        `dataset` names the images, whatever is done with them; `recipe` is the data set's key. The
        images of a folder have no other name.
        """
        settings = self.datasets[dataset]
        source = settings.source.name
        studies = [name for name, grid in self.grids().items() if (dataset, method) in grid.runs()]
        return {
            "dataset": dataset if source == "folder" else source,
            "recipe": dataset,
            "method": method,
            "study": ", ".join(studies),
            "backbone": settings.training.backbone.name,
        }

    def settings(
        self, dataset: str, method: str, point: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return a training's settings: the data set's, and over them the method's.

        Args:
            dataset: Key in `datasets`.
            method: Key in `methods`.
            point: Settings of a grid's point, in place of the entries' own.

        Raises:
            ValidationError, KeyError, TypeError: If the point is no settings of the method.
        """
        training: Section = self.datasets[dataset].training
        own: Section = self.methods[method]
        for key, value in (point or {}).items():
            if key in type(training).model_fields and key not in type(own).model_fields:
                training = varied(training, key, value)
            else:
                own = varied(own, key, value)
        return training.model_dump() | {k: v for k, v in own.model_dump().items() if v is not None}

    def chosen_by(self, dataset: str) -> dict[str, Any]:
        """Return a data set's packing, and the metric that may choose among its models: None if it
        is measured on the test classes."""
        settings = self.datasets[dataset]
        metric = f"recall_at_{settings.evaluation.recall_at[0]}"
        validated = settings.packing.validation is not None
        return {"packing": settings.packing.model_dump(), "metric": metric if validated else None}
