"""The types of a method: the heated softmax with normalisation, bias, smoothing and schedules, or a
loss of pytorch-metric-learning."""

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Discriminator, Field, Tag, model_validator
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


class Learned(Choice):
    name: Literal["learned"]
    start: Positive


class AdaCos(Choice):
    name: Literal["adacos"]


Alpha = Annotated[
    Constant | Step | Linear | Cosine | Exponential | Piecewise | Learned | AdaCos,
    Field(discriminator="name"),
]


class NoNormalisation(Choice):
    name: Literal["none"]


class L2Normalisation(Choice):
    name: Literal["l2"]


class L2EmbeddingsNormalisation(Choice):
    name: Literal["l2_embeddings"]


class BatchNormalisation(Choice):
    name: Literal["batch"]
    momentum: Share
    eps: Positive


class HeatedSoftmax(Section):
    normalise: Annotated[
        NoNormalisation | L2Normalisation | L2EmbeddingsNormalisation | BatchNormalisation,
        Field(discriminator="name"),
    ]
    bias: Literal["outside", "inside", "none"]
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    denominator: Literal["all", "others"]
    embedding_dim: Count | None
    alpha: Alpha
    lr_factor: Schedule

    @model_validator(mode="after")
    def of_all_classes(self) -> Self:
        """ValueError where smoothed labels lie on classes that are not in the denominator."""
        if self.label_smoothing and self.denominator == "others":
            raise ValueError("label_smoothing of 0 where the denominator is of the others")
        return self

    @model_validator(mode="after")
    def of_cosines(self) -> Self:
        """ValueError where AdaCos has no cosines to go by."""
        if self.alpha.name == "adacos" and (self.normalise.name, self.bias) != ("l2", "none"):
            raise ValueError("normalise l2 and bias none with adacos, which goes by cosines")
        return self


class OfLibrary(Choice):
    """A loss or miner: its options are the library's, which checks them where they are used."""

    model_config = ConfigDict(extra="allow")


class Shuffled(Choice):
    name: Literal["shuffled"]


class PerClass(Choice):
    name: Literal["per_class"]
    images: Annotated[int, Field(ge=2)]


class LibraryLoss(Section):
    loss: OfLibrary
    miner: OfLibrary | None
    sampler: Annotated[Shuffled | PerClass, Field(discriminator="name")]
    head_lr_factor: Positive | None
    embedding_dim: Count | None
    lr_factor: Schedule


def kind(method: Any) -> str:
    """Which of the two kinds of method it is, or is meant to be."""
    has_loss = "loss" in method if isinstance(method, dict) else hasattr(method, "loss")
    return "LibraryLoss" if has_loss else "HeatedSoftmax"


Method = Annotated[
    Annotated[HeatedSoftmax, Tag("HeatedSoftmax")] | Annotated[LibraryLoss, Tag("LibraryLoss")],
    Discriminator(kind),
]
