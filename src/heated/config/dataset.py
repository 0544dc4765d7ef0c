"""The types of a data set's source, packing, split and evaluation."""

import re
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from pydantic.functional_validators import AfterValidator

from heated.config.base import Choice, Count, Section, Seed, distinct


class Digits(Choice):
    name: Literal["digits"]
    turns: Annotated[int, Field(ge=1, le=4)]


class Published(Choice):
    name: Literal["omniglot-small", "omniglot", "mnist", "cub200", "cars196", "sop", "in-shop"]


class Folder(Choice):
    name: Literal["folder"]
    path: str
    layout: Literal["classes", "parts"]


class FixedSplit(Choice):
    name: Literal["source", "halves"]


class FractionSplit(Choice):
    name: Literal["fraction", "images"]
    train: Annotated[float, Field(gt=0, lt=1)]


class ClassesSplit(Choice):
    name: Literal["classes"]
    train: Annotated[list[str], Field(min_length=2), AfterValidator(distinct)]


def expression(pattern: str) -> str:
    """Return a regular expression; raise ValueError if it is none."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"a regular expression ({error})") from None
    return pattern


class PatternSplit(Choice):
    name: Literal["pattern"]
    train: Annotated[str, AfterValidator(expression)]


class Validation(Section):
    folds: Annotated[int, Field(ge=2)]
    fold: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def one_of_them(self) -> Self:
        """Raise ValueError unless the fold is one of the folds."""
        if self.fold >= self.folds:
            raise ValueError(f"a fold from 0 to {self.folds - 1}")
        return self


class Packing(Section):
    size: Count
    fit: Literal["squash", "crop"]
    colour: Literal["rgb", "grey", "inverted"]
    filter: Literal["bilinear", "lanczos"]
    damaged: Annotated[int, Field(ge=0)]
    split: Annotated[
        FixedSplit | FractionSplit | ClassesSplit | PatternSplit, Field(discriminator="name")
    ]
    validation: Validation | None


Source = Annotated[Digits | Published | Folder, Field(discriminator="name")]


class ScikitLearn(Choice):
    name: Literal["scikit-learn"]
    restarts: Count


class Lloyd(Choice):
    name: Literal["lloyd"]
    restarts: Count
    iterations: Count


class Evaluation(Section):
    recall_at: Annotated[list[Count], Field(min_length=1), AfterValidator(distinct)]
    kmeans: Annotated[ScikitLearn | Lloyd, Field(discriminator="name")]
    kmeans_seeds: Annotated[list[Seed], Field(min_length=1), AfterValidator(distinct)]
    memory: Count
