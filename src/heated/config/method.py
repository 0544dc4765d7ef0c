"""The types of a method: the heated softmax, or a loss of pytorch-metric-learning."""

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


class Ramp(Choice):
    name: Literal["linear", "cosine", "exponential"]
    start: Positive
    end: Positive


def rising(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points; raise ValueError unless progress rises from point to point."""
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


class Adaptive(Choice):
    name: Literal["adacos"]


class Learned(Choice):
    name: Literal["learned"]
    start: Positive


Schedule = Annotated[Constant | Step | Ramp | Piecewise, Field(discriminator="name")]
Alpha = Annotated[
    Constant | Step | Ramp | Piecewise | Learned | Adaptive, Field(discriminator="name")
]


class Normalisation(Choice):
    name: Literal["none", "l2", "l2_embeddings"]


class BatchNormalisation(Choice):
    name: Literal["batch"]
    momentum: Share
    eps: Positive


class HeatedSoftmax(Section):
    normalise: Annotated[Normalisation | BatchNormalisation, Field(discriminator="name")]
    bias: Literal["outside", "inside", "none"]
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    denominator: Literal["all", "others"]
    embedding_dim: Count | None
    alpha: Alpha
    lr_factor: Schedule

    @model_validator(mode="after")
    def compatible(self) -> Self:
        """Raise ValueError for options that exclude each other."""
        if self.label_smoothing and self.denominator == "others":
            raise ValueError("label_smoothing of 0 where the denominator is of the others")
        if self.alpha.name == "adacos" and (self.normalise.name, self.bias) != ("l2", "none"):
            raise ValueError("normalise l2 and bias none with adacos, which goes by cosines")
        return self


class OfLibrary(Choice):
    """A loss or miner; `heated.losses.pml` checks its options."""

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
    """Return the tag of the kind of method: a loss of the library has a key `loss`."""
    has_loss = "loss" in method if isinstance(method, dict) else hasattr(method, "loss")
    return "LibraryLoss" if has_loss else "HeatedSoftmax"


Method = Annotated[
    Annotated[HeatedSoftmax, Tag("HeatedSoftmax")] | Annotated[LibraryLoss, Tag("LibraryLoss")],
    Discriminator(kind),
]
