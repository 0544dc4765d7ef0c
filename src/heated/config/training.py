"""The types of a data set's training: network, optimizer, augmentation."""

import math
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.functional_validators import AfterValidator, PlainValidator

from heated.config.base import Choice, Count, Epochs, NotNegative, Positive, Section, Share


class LeNet(Choice):
    name: Literal["lenet"]


class Conv4(Choice):
    name: Literal["conv4"]
    width: Count


class BatchNorm(Section):
    momentum: Share
    eps: Positive
    frozen: bool


class Deep(Choice):
    name: Literal["googlenet", "resnet50", "mobilenet_v2"]
    batch_norm: BatchNorm
    frozen_blocks: Annotated[int, Field(ge=0)]


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
    """Return the weights' name; raise ValueError if it is neither known nor a file's."""
    if value not in ("none", "imagenet") and not value.endswith((".safetensors", ".pth")):
        raise ValueError("none, imagenet, or the path of a .safetensors or .pth file")
    return value


def per_channel(value: Any, *, above: float = -math.inf) -> float | list[float]:
    """Return a number or one per channel as floats; raise ValueError for anything else."""
    each = value if isinstance(value, list) else [value]
    if not each or not all(type(part) in (int, float) and math.isfinite(part) for part in each):
        raise ValueError("a finite number, or a list with one a channel")
    if min(each) <= above:
        raise ValueError(f"a number above {above}, or a list with one a channel")
    return [float(part) for part in each] if isinstance(value, list) else float(value)


class Training(Section):
    backbone: Annotated[LeNet | Conv4 | Deep, Field(discriminator="name")]
    weights: Annotated[str, AfterValidator(weights_named)]
    embedding_dim: Count
    warm_up: Literal["none", "batch_norm", "class_means"]
    epochs: Epochs
    batch_size: Annotated[int, Field(ge=2)]
    lr: Positive
    bottleneck_lr_factor: Positive
    head_lr_factor: Positive
    optimiser: Annotated[Sgd | Adam | AdamTF, Field(discriminator="name")]
    augment: list[Annotated[Affine | Crop | ResizedCrop | Flip, Field(discriminator="name")]]
    watch_every: Count
    pixel_mean: Annotated[float | list[float], PlainValidator(per_channel)]
    pixel_std: Annotated[float | list[float], PlainValidator(partial(per_channel, above=0))]
    precision: Literal["auto", "float32", "bfloat16"]
