"""The types of a data set's source, packing and split."""

import re
from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic.functional_validators import AfterValidator

from heated.config.base import Choice, Count, Section, distinct


class Digits(Choice):
    name: Literal["digits"]
    turns: Annotated[int, Field(ge=1, le=4)]


class OmniglotSmall(Choice):
    name: Literal["omniglot-small"]


class Omniglot(Choice):
    name: Literal["omniglot"]


class Mnist(Choice):
    name: Literal["mnist"]


class Cub200(Choice):
    name: Literal["cub200"]


class Cars196(Choice):
    name: Literal["cars196"]


class Sop(Choice):
    name: Literal["sop"]


class InShop(Choice):
    name: Literal["in-shop"]


class Folder(Choice):
    name: Literal["folder"]
    path: str
    layout: Literal["classes", "parts"]


class OwnSplit(Choice):
    name: Literal["source"]


class Halves(Choice):
    name: Literal["halves"]


class Fraction(Choice):
    name: Literal["fraction"]
    train: Annotated[float, Field(gt=0, lt=1)]


class Classes(Choice):
    name: Literal["classes"]
    train: Annotated[list[str], Field(min_length=2), AfterValidator(distinct)]


def expression(pattern: str) -> str:
    """The regular expression as it came; ValueError where it is none."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"a regular expression ({error})") from None
    return pattern


class Pattern(Choice):
    name: Literal["pattern"]
    train: Annotated[str, AfterValidator(expression)]


class Images(Choice):
    name: Literal["images"]
    train: Annotated[float, Field(gt=0, lt=1)]


class Validation(Section):
    folds: Annotated[int, Field(ge=2)]
    fold: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def one_of_them(self) -> "Validation":
        """ValueError unless the fold is one of the folds."""
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
        OwnSplit | Halves | Fraction | Classes | Pattern | Images, Field(discriminator="name")
    ]
    validation: Validation | None


Source = Annotated[
    Digits | OmniglotSmall | Omniglot | Mnist | Cub200 | Cars196 | Sop | InShop | Folder,
    Field(discriminator="name"),
]
