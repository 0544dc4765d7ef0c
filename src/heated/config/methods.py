"""The types of a method: normalisation, bias, smoothing, schedules."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.functional_validators import AfterValidator

from heated.config.base import Choice, Count, Positive, Section, Share


class Constant(Choice):
    name: Literal["constant"]
    value: Positive


class Step(Choice):
    name: Literal["step"]
    start: Positive
    end: Positive
    at: Share


class Linear(Choice):
    name: Literal["linear"]
    start: Positive
    end: Positive


class Cosine(Choice):
    name: Literal["cosine"]
    start: Positive
    end: Positive


class Exponential(Choice):
    name: Literal["exponential"]
    start: Positive
    end: Positive


def rising(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points as they came; ValueError unless progress rises from point to point."""
    progress = [p for p, _ in points]
    if any(a >= b for a, b in zip(progress, progress[1:], strict=False)):
        raise ValueError("progress that rises from point to point")
    return points


class Piecewise(Choice):
    name: Literal["piecewise"]
    points: Annotated[
        list[Annotated[tuple[Share, Positive], Field(strict=False)]],
        Field(min_length=1),
        AfterValidator(rising),
    ]


Schedule = Annotated[
    Constant | Step | Linear | Cosine | Exponential | Piecewise, Field(discriminator="name")
]


class NoNormalisation(Choice):
    name: Literal["none"]


class L2Normalisation(Choice):
    name: Literal["l2"]


class BatchNormalisation(Choice):
    name: Literal["batch"]
    momentum: Share
    eps: Positive


class Method(Section):
    normalise: Annotated[
        NoNormalisation | L2Normalisation | BatchNormalisation, Field(discriminator="name")
    ]
    bias: Literal["outside", "inside", "none"]
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    embedding_dim: Count | None
    alpha: Schedule
    lr_factor: Schedule
