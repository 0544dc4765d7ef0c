"""The types of the parameters, section by section: what each key may hold."""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.functional_validators import AfterValidator

from heated.config.base import Count, Name, NotNegative, Positive, Section
from heated.config.dataset import Packing, Source
from heated.config.evaluation import Evaluation
from heated.config.experiments import Claim, Grid, Names, Report, Studies
from heated.config.method import Method
from heated.config.reading import ParamsError
from heated.config.training import Training


class Dataset(Section):
    source: Source
    packing: Packing
    training: Training
    evaluation: Evaluation


def launcher(command: str) -> str:
    """The command as it came; ValueError unless it starts a module, by torchrun or alone."""
    if not re.fullmatch(r"(python|torchrun( --[a-z-]+=[\w.:-]+)+) -m", command):
        raise ValueError("python -m, or torchrun with --option=value, and -m at the end")
    return command


def varied(section: Section, key: str, value: Any) -> Section:
    """The section with another value at a key such as `lr` or `loss.margin`."""
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
        """What is trained: `run`, and the studies that train."""
        return {"run": self.run, **self.studies.grids()}

    def runs(self) -> Iterator[tuple[str, str]]:
        """Data set and method of all that is trained, a data set after the other."""
        names = dict.fromkeys(name for grid in self.grids().values() for name in grid.datasets)
        for dataset in names:
            for method in self.seeds_of(dataset):
                yield dataset, method

    def seeds_of(self, dataset: str) -> dict[str, list[int]]:
        """The seeds of each method that is trained on a data set."""
        grids = [grid for grid in self.grids().values() if dataset in grid.datasets]
        return {method: grid.seeds for grid in grids for method in grid.methods}

    def seeds(self, dataset: str, method: str) -> list[int]:
        """The seeds of a run; ParamsError where nothing trains it."""
        trained = self.seeds_of(dataset)
        if method not in trained:
            raise ParamsError(
                f"got {method!r} on {dataset!r}, expected what run or a study trains on it "
                f"({', '.join(trained) or 'nothing'}). Name it there in params.yaml."
            )
        return trained[method]

    def tags(self, dataset: str, method: str) -> dict[str, str]:
        """What runs are grouped by. `dataset` are the images, whatever is done with them: the
        recipe, which is the data set's key here. The images of a folder have no other name."""
        settings = self.datasets[dataset]
        source = settings.source.name
        of = [n for n, g in self.grids().items() if dataset in g.datasets and method in g.methods]
        return {
            "dataset": dataset if source == "folder" else source,
            "recipe": dataset,
            "method": method,
            "study": ", ".join(of),
            "backbone": settings.training.backbone.name,
        }

    def settings(
        self, dataset: str, method: str, point: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """What training needs to know: of the data set, and what the method says of it itself; with
        the settings of a `point` of a grid instead of its own. ValidationError where that has
        others than there are, or a value that is none of theirs."""
        training: Section = self.datasets[dataset].training
        own: Section = self.methods[method]
        for key, value in (point or {}).items():
            if key in type(training).model_fields and key not in type(own).model_fields:
                training = varied(training, key, value)
            else:
                own = varied(own, key, value)
        said = own.model_dump()
        return training.model_dump() | {
            key: value for key, value in said.items() if value is not None
        }

    def all_settings(
        self, dataset: str, points: Mapping[str, Mapping[str, Any]]
    ) -> dict[str, dict[str, Any]]:
        """The settings of all methods that are trained on a data set, some at a point of a grid;
        ParamsError where nothing trains those."""
        for method in points:
            self.seeds(dataset, method)
        return {
            name: self.settings(dataset, name, points.get(name)) for name in self.seeds_of(dataset)
        }

    def chosen_by(self, dataset: str) -> dict[str, Any]:
        """How a data set's images are packed, and the metric that may choose among its models: none
        where it is measured on the test classes."""
        settings = self.datasets[dataset]
        metric = f"recall_at_{settings.evaluation.recall_at[0]}"
        validated = settings.packing.validation is not None
        return {"packing": settings.packing.model_dump(), "metric": metric if validated else None}
