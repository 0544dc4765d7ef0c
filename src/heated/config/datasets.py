"""Schema of a data set: source, packing, training and evaluation."""

import math
import re
from functools import partial
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, PlainValidator, model_validator

from heated.config import base
from heated.config.base import Count, NamedConfig, Positive, StrictModel, UnitInterval


def validate_regex(pattern: str) -> str:
    """Return a regular expression, or raise ValueError if it cannot be compiled."""
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"a regular expression ({error})") from None
    return pattern


def validate_per_channel(value: Any, *, above: float = -math.inf) -> float | list[float]:
    """Return a number, or one per channel, as float; raise ValueError for anything else."""
    numbers = value if isinstance(value, list) else [value]
    if not numbers or not all(type(n) in (int, float) and math.isfinite(n) for n in numbers):
        raise ValueError("a finite number, or a list with one per channel")
    if min(numbers) <= above:
        raise ValueError(f"a number above {above}, or a list with one per channel")
    return [float(n) for n in numbers] if isinstance(value, list) else float(value)


class BatchNorm(StrictModel):
    """Batch norm in a pretrained network.

    `scale`: whether it learns one. `frozen`: its statistics and weights stay.
    """

    momentum: UnitInterval
    eps: Positive
    scale: bool
    frozen: bool


PerChannel = float | list[float]
FRACTION = Annotated[float, Field(gt=0, lt=1)]
PRETRAINED = {"batch_norm": BatchNorm, "frozen_blocks": Annotated[int, Field(ge=0)]}

# The options of each name, as keyword arguments of the function in the package's registry.
SOURCE_OPTIONS: dict[str, dict[str, Any]] = {
    "digits": {"rotations": Annotated[int, Field(ge=1, le=4)]},
    **dict.fromkeys(("omniglot-small", "omniglot", "mnist"), {}),
    **dict.fromkeys(("cub200", "cars196", "sop", "in-shop"), {}),
    "folder": {"path": str, "layout": Literal["classes", "parts"]},
}
SPLIT_OPTIONS: dict[str, dict[str, Any]] = {
    "source": {},
    "halves": {},
    "fraction": {"train": FRACTION},
    "images": {"train": FRACTION},
    "classes": {"train": Annotated[list[str], Field(min_length=2), base.Unique]},
    "pattern": {"train": Annotated[str, AfterValidator(validate_regex)]},
}
BACKBONE_OPTIONS: dict[str, dict[str, Any]] = {
    "lenet": {},
    "conv4": {"width": Count},
    **dict.fromkeys(("googlenet", "resnet50", "mobilenet_v2"), PRETRAINED),
}
AUGMENTATION_OPTIONS: dict[str, dict[str, Any]] = {
    "affine": {
        "degrees": Annotated[float, Field(ge=0, le=180)],
        "scale": Annotated[float, Field(ge=0, lt=1)],
        "shear": Annotated[float, Field(ge=0, lt=90)],
        "translate": UnitInterval,
    },
    "crop": {"size": Count},
    "resized_crop": {
        "size": Count,
        "min_scale": Annotated[float, Field(gt=0, le=1)],
        "max_ratio": Annotated[float, Field(ge=1)],
    },
    "flip": {"p": UnitInterval},
}
OPTIMIZER_OPTIONS: dict[str, dict[str, Any]] = {
    "sgd": {"momentum": Annotated[float, Field(ge=0, lt=1)], "weight_decay": base.NonNegative},
    "adam": {"eps": Positive, "weight_decay": base.NonNegative},
    "adam_tf": {"eps": Positive},
}
KMEANS_OPTIONS: dict[str, dict[str, Any]] = {
    "scikit-learn": {"restarts": Count},
    **dict.fromkeys(("lloyd", "auto"), {"restarts": Count, "iterations": Count}),
}


class Validation(StrictModel):
    """Test on one fold of the training classes, and leave the test classes out."""

    folds: Annotated[int, Field(ge=2)]
    fold: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def validate_fold(self) -> Self:
        """Raise ValueError if there is no such fold."""
        if self.fold >= self.folds:
            raise ValueError(f"a fold from 0 to {self.folds - 1}")
        return self


class Packing(StrictModel):
    """How images become one array, and which classes or images train."""

    size: Count
    fit: Literal["squash", "crop"]
    color_mode: Literal["rgb", "gray", "inverted"]
    filter: Literal["bilinear", "lanczos"]
    max_damaged_images: Annotated[int, Field(ge=0)]
    split: Annotated[NamedConfig, base.choice(SPLIT_OPTIONS)]
    validation: Validation | None

    def image_shape(self) -> list[int]:
        """Return height, width and channels of a packed image."""
        return [self.size, self.size, 3 if self.color_mode == "rgb" else 1]


class Training(StrictModel):
    """Network, optimizer and augmentation."""

    backbone: Annotated[NamedConfig, base.choice(BACKBONE_OPTIONS)]
    weights: Annotated[
        str,
        base.constraint(
            lambda name: name in ("none", "imagenet") or name.endswith((".safetensors", ".pth")),
            "none, imagenet, or the path of a .safetensors or .pth file",
        ),
    ]
    embedding_dim: Count
    init: Literal["none", "batch_norm", "class_means"]
    epochs: Annotated[int, Field(ge=1, le=1_000_000)]  # a schedule has one value per epoch
    batch_size: Annotated[int, Field(ge=2)]
    lr: Positive
    bottleneck_lr_mult: Positive
    classifier_lr_mult: Positive
    optimizer: Annotated[NamedConfig, base.choice(OPTIMIZER_OPTIONS)]
    augment: list[Annotated[NamedConfig, base.choice(AUGMENTATION_OPTIONS)]]
    eval_every: Count
    pixel_mean: Annotated[PerChannel, PlainValidator(validate_per_channel)]
    pixel_std: Annotated[PerChannel, PlainValidator(partial(validate_per_channel, above=0))]
    precision: Literal["auto", "float32", "tf32", "bfloat16"]
    cuda_graphs: bool


class Evaluation(StrictModel):
    """Metrics of the embeddings, and the memory to compute them with."""

    recall_at: Annotated[list[Count], base.NonEmpty, base.Unique]
    kmeans: Annotated[NamedConfig, base.choice(KMEANS_OPTIONS)]
    kmeans_seeds: base.Seeds
    memory_mib: Count


class Dataset(StrictModel):
    """A data set with its recipe."""

    source: Annotated[NamedConfig, base.choice(SOURCE_OPTIONS)]
    packing: Packing
    training: Training
    evaluation: Evaluation
