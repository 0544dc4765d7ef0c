"""Schema of a method: the heated softmax, or a loss of pytorch-metric-learning."""

from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Discriminator, Field, Tag, model_validator

from heated.config import base
from heated.config.base import Count, NamedConfig, Positive, StrictModel, UnitInterval

RAMP = {"start": Positive, "end": Positive}
POINT = Annotated[tuple[UnitInterval, Positive], Field(strict=False)]  # progress and value

# The options of each name, as keyword arguments of the function in the package's registry.
SCHEDULE_OPTIONS: dict[str, dict[str, Any]] = {
    "constant": {"value": Positive},
    "step": {**RAMP, "at": UnitInterval},
    **dict.fromkeys(("linear", "cosine", "exponential"), RAMP),
    "periodic_cosine": {**RAMP, "periods": Positive},
    "piecewise": {
        "points": Annotated[
            list[POINT],
            base.NonEmpty,
            base.constraint(
                lambda points: all(a < b for (a, _), (b, _) in pairwise(points)),
                "progress that rises from point to point",
            ),
        ]
    },
}
ALPHA_OPTIONS = {**SCHEDULE_OPTIONS, "learned": {"start": Positive}, "adacos": {}}
NORMALIZATION_OPTIONS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("none", "l2", "l2_embeddings", "layer"), {}),
    "batch": {"momentum": UnitInterval, "eps": Positive},
}
SAMPLER_OPTIONS: dict[str, dict[str, Any]] = {
    "shuffled": {},
    "per_class": {"images": Annotated[int, Field(ge=2)]},
}
Schedule = Annotated[NamedConfig, base.choice(SCHEDULE_OPTIONS)]
Sampler = Annotated[NamedConfig, base.choice(SAMPLER_OPTIONS)]


class HeatedSoftmaxMethod(StrictModel):
    """The project's own loss; `alpha` is 1 / temperature. Empty keys take the data set's value."""

    normalize: Annotated[NamedConfig, base.choice(NORMALIZATION_OPTIONS)]
    bias: Literal["outside", "inside", "none"]
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    denominator: Literal["all", "negatives_only"]
    embedding_dim: Count | None
    sampler: Sampler | None
    classifier_lr_mult: Positive | None
    pooling: Literal["max"] | None
    alpha: Annotated[NamedConfig, base.choice(ALPHA_OPTIONS)]
    lr_schedule: Schedule

    @model_validator(mode="after")
    def validate_combination(self) -> Self:
        """Raise ValueError for options that exclude each other."""
        if self.label_smoothing and self.denominator == "negatives_only":
            raise ValueError("label_smoothing of 0 with denominator `negatives_only`")
        if self.alpha.name == "adacos" and (self.normalize.name, self.bias) != ("l2", "none"):
            raise ValueError("normalize l2 and bias none with adacos, which needs cosines")
        return self


class PMLConfig(NamedConfig):
    """A loss or miner of pytorch-metric-learning; `heated.losses.pml` checks its options."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Annotated[Any, base.JSON_VALUE]] = Field(init=False)


class PMLMethod(StrictModel):
    """A loss of pytorch-metric-learning; `alpha` is the schedule of an option that is `alpha`."""

    loss: PMLConfig
    miner: PMLConfig | None
    sampler: Sampler
    classifier_lr_mult: Positive | None
    embedding_dim: Count | None
    alpha: Schedule | None
    lr_schedule: Schedule

    @model_validator(mode="after")
    def validate_alpha(self) -> Self:
        """Raise ValueError if there is a schedule without an option for it, or the other way."""
        if ("alpha" in self.loss.options.values()) != (self.alpha is not None):
            raise ValueError("an option of `loss` that is `alpha`, and a schedule `alpha`, or none")
        return self


def method_tag(method: Any) -> str:
    """Return the class name of a method; only a PMLMethod has a key `loss`."""
    has_loss = "loss" in method if isinstance(method, dict) else hasattr(method, "loss")
    return "PMLMethod" if has_loss else "HeatedSoftmaxMethod"


Method = Annotated[
    Annotated[HeatedSoftmaxMethod, Tag("HeatedSoftmaxMethod")]
    | Annotated[PMLMethod, Tag("PMLMethod")],
    Discriminator(method_tag),
]
