"""The types of params.yaml, section by section: what each key may hold."""

import math
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic.functional_validators import AfterValidator, PlainValidator

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
# DVC joins names with `-` into a stage's name and breaks on `@`.
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]


def distinct(values: list[Any]) -> list[Any]:
    """The values as they came; ValueError if one came twice."""
    if len(set(values)) < len(values):
        raise ValueError("each entry only once")
    return values


class Section(BaseModel):
    """A mapping of params.yaml: no unknown keys, no changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Choice(Section):
    """A key of one of the package's dicts, with the options of the function it names."""

    name: str

    @property
    def options(self) -> dict[str, Any]:
        """Everything but the name: keyword arguments of the chosen function."""
        return self.model_dump(exclude={"name"})


# --- schedules -------------------------------------------------------------------------------


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


# --- methods ---------------------------------------------------------------------------------


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
    alpha: Schedule
    lr_factor: Schedule


# --- data sets -------------------------------------------------------------------------------


class Digits(Choice):
    name: Literal["digits"]


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
    split: Annotated[OwnSplit | Halves | Fraction | Classes | Pattern, Field(discriminator="name")]
    validation: Validation | None


class LeNet(Choice):
    name: Literal["lenet"]


class Conv4(Choice):
    name: Literal["conv4"]
    width: Count


class BatchNorm(Section):
    momentum: Share
    eps: Positive
    frozen: bool


class GoogLeNet(Choice):
    name: Literal["googlenet"]
    batch_norm: BatchNorm


class ResNet50(Choice):
    name: Literal["resnet50"]
    batch_norm: BatchNorm


class MobileNetV2(Choice):
    name: Literal["mobilenet_v2"]
    batch_norm: BatchNorm


class Affine(Choice):
    name: Literal["affine"]
    degrees: Annotated[float, Field(ge=0, le=180)]
    scale: Annotated[float, Field(ge=0, lt=1)]
    shear: Annotated[float, Field(ge=0, lt=90)]
    shift: Share


class Crop(Choice):
    name: Literal["crop"]
    size: Count


class ResizedCrop(Choice):
    name: Literal["resized_crop"]
    size: Count
    smallest: Annotated[float, Field(gt=0, le=1)]
    aspect: Annotated[float, Field(ge=1)]


class Flip(Choice):
    name: Literal["flip"]
    probability: Share


class Sgd(Choice):
    name: Literal["sgd"]
    momentum: Annotated[float, Field(ge=0, lt=1)]
    weight_decay: NotNegative


class Adam(Choice):
    name: Literal["adam"]
    eps: Positive
    weight_decay: NotNegative


class AdamTF(Choice):
    name: Literal["adam_tf"]
    eps: Positive


def weights_named(value: str) -> str:
    """The value as it came; ValueError unless it names weights to begin with."""
    if value not in ("none", "imagenet") and not value.endswith((".safetensors", ".pth")):
        raise ValueError("none, imagenet, or the path of a .safetensors or .pth file")
    return value


def a_channel(value: Any) -> float | list[float]:
    """A number, or a list of one a channel; ValueError if it is neither."""
    each = value if isinstance(value, list) else [value]
    if not each or not all(type(part) in (int, float) and math.isfinite(part) for part in each):
        raise ValueError("a finite number, or a list with one a channel")
    return [float(part) for part in each] if isinstance(value, list) else float(value)


def above_0(value: float | list[float]) -> float | list[float]:
    """The value as it came; ValueError unless all of it is above 0."""
    if min(value if isinstance(value, list) else [value]) <= 0:
        raise ValueError("a number above 0, or a list with one a channel")
    return value


PerChannel = Annotated[float | list[float], PlainValidator(a_channel)]


class Training(Section):
    backbone: Annotated[
        LeNet | Conv4 | GoogLeNet | ResNet50 | MobileNetV2, Field(discriminator="name")
    ]
    weights: Annotated[str, AfterValidator(weights_named)]
    embedding_dim: Count
    warm_up: Literal["none", "batch_norm", "class_means"]
    epochs: Count
    batch_size: Annotated[int, Field(ge=2)]
    lr: Positive
    head_lr_factor: Positive
    optimiser: Annotated[Sgd | Adam | AdamTF, Field(discriminator="name")]
    augment: list[Annotated[Affine | Crop | ResizedCrop | Flip, Field(discriminator="name")]]
    watch_every: Count
    pixel_mean: PerChannel
    pixel_std: Annotated[PerChannel, AfterValidator(above_0)]
    precision: Literal["auto", "float32", "bfloat16"]


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


class Dataset(Section):
    source: Annotated[
        Digits | OmniglotSmall | Omniglot | Mnist | Cub200 | Cars196 | Sop | InShop | Folder,
        Field(discriminator="name"),
    ]
    packing: Packing
    training: Training
    evaluation: Evaluation


# --- the whole file --------------------------------------------------------------------------


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
