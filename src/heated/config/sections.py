"""The types of params.yaml, section by section: what each key may hold."""

import re
from typing import Annotated

from pydantic import Field
from pydantic.functional_validators import AfterValidator

from heated.config.base import Count, Name, Positive, Section, Seed, distinct
from heated.config.data import Packing, Source
from heated.config.evaluation import Evaluation
from heated.config.methods import Method
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


class Run(Section):
    datasets: Annotated[list[Name], Field(min_length=1), AfterValidator(distinct)]
    methods: Annotated[list[Name], Field(min_length=1), AfterValidator(distinct)]
    seeds: Annotated[list[Seed], Field(min_length=1), AfterValidator(distinct)]
    threads: Count
    launch: Annotated[str, AfterValidator(launcher)]


class Download(Section):
    mirror: str | None


class Checkpoints(Section):
    every: Positive
    budget: Positive


class Tracking(Section):
    enabled: bool
    every: Positive


class Params(Section):
    run: Run
    download: Download
    checkpoints: Checkpoints
    tracking: Tracking
    datasets: dict[Name, Dataset]
    methods: dict[Name, Method]
