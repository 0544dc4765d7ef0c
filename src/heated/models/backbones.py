"""Networks from images (N, C, H, W) to raw embeddings (N, D)."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import nn

from heated.common.errors import InputError
from heated.common.geometry import variance_scaling_

Shape = tuple[int, int, int]  # channels, height, width


def lenet(image_shape: Shape, embedding_dim: int) -> nn.Module:
    """Build the authors' LeNet: two 5x5 convolutions of 32 and 64 channels, each max-pooled, 500
    hidden units, ReLU throughout; no batch norm, no dropout (paper section 4.1; lenet.py)."""
    channels, height, width = image_shape
    pooled = 64 * -(-height // 4) * -(-width // 4)
    network = nn.Sequential(
        nn.Conv2d(channels, 32, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.Conv2d(32, 64, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.Flatten(),
        nn.Linear(pooled, 500),
        nn.ReLU(),
        nn.Linear(500, embedding_dim),
    )
    return initialised(network)


def conv4(image_shape: Shape, embedding_dim: int, *, width: int) -> nn.Module:
    """Build four blocks of 3x3 convolution, batch norm, ReLU and, while two pixels a side are left,
    2x2 max-pooling; then a linear bottleneck. The few-shot field's network, for 8x8 to 84x84."""
    channels, height, width_left = image_shape
    layers: list[nn.Module] = []
    for _ in range(4):
        layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)]
        layers += [nn.ReLU()]
        channels = width
        if min(height, width_left) >= 2:
            layers += [nn.MaxPool2d(2)]
            height, width_left = height // 2, width_left // 2
    bottleneck = nn.Linear(channels * height * width_left, embedding_dim)
    return initialised(nn.Sequential(*layers, nn.Flatten(), bottleneck))


def torchvision_network(
    name: str,
    image_shape: Shape,
    embedding_dim: int,
    *,
    batch_norm: Mapping[str, Any],
    frozen_blocks: int,
) -> nn.Module:
    """Build one of torchvision's networks for 3 channels, about 224x224, whose pooled features a
    linear bottleneck without dropout brings to D.

    - googlenet: GoogLeNet (Inception V1) with batch norm, as in the paper; 1024 features.
      ImageNet's weights need pixels in [-1, 1]: mean and deviation 0.5.
    - resnet50, mobilenet_v2: 2048 and 1280 features. Published with batch norm of eps 1e-5; their
      weights need ImageNet's mean and deviation.

    `batch_norm` is momentum (the share of the new batch), eps, and whether all are frozen. The
    first `frozen_blocks` blocks keep their starting weights. InputError if there are fewer.
    """
    from torchvision.models import get_model  # takes a second: only where wanted

    if image_shape[0] != 3:
        raise InputError(f"came images of {image_shape[0]} channels; allowed: 3, red green blue")
    without = ("init_weights", "aux_logits", "transform_input") if name == "googlenet" else ()
    network = get_model(name, weights=None, **dict.fromkeys(without, False))
    features = network.get_submodule(bottleneck(network)).in_features
    if name == "mobilenet_v2":
        network.classifier = nn.Linear(features, embedding_dim)
        blocks = [*network.features]
    else:
        network.fc, network.dropout = nn.Linear(features, embedding_dim), nn.Identity()
        blocks = [*network.children()][:-3]  # all but pooling, dropout and bottleneck
    if frozen_blocks > len(blocks):
        raise InputError(
            f"frozen_blocks: came {frozen_blocks}; allowed: 0 to {len(blocks)}, all of the network "
            "but its bottleneck"
        )
    frozen_layers = [layer for block in blocks[:frozen_blocks] for layer in block.modules()]
    for layer in frozen_layers:
        layer.requires_grad_(False)
    set_batch_norm(network, frozen_layers, **batch_norm)
    return initialised(network)


def set_batch_norm(
    network: nn.Module,
    frozen_layers: Sequence[nn.Module],
    *,
    momentum: float,
    eps: float,
    frozen: bool,
) -> None:
    """Set momentum and eps of every batch norm; freeze all of them, or those in `frozen_layers`: in
    training mode, too, their statistics, scale and shift stay."""
    from torchvision.ops import FrozenBatchNorm2d

    for parent in list(network.modules()):
        for name, layer in parent.named_children():
            if isinstance(layer, nn.BatchNorm2d):
                layer.momentum, layer.eps = momentum, eps
                if frozen or layer in frozen_layers:
                    setattr(parent, name, FrozenBatchNorm2d(layer.num_features, eps))


def initialised(network: nn.Module) -> nn.Module:
    """Fill every weight by variance scaling of factor 2 and every bias with 0."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            variance_scaling_(layer.weight, scale=2)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return network


def bottleneck(network: nn.Module) -> str:
    """Return the name of a backbone's last layer, which brings its features to D."""
    return [name for name, layer in network.named_modules() if isinstance(layer, nn.Linear)][-1]


BACKBONES: dict[str, Callable[..., nn.Module]] = {
    "lenet": lenet,
    "conv4": conv4,
    **{
        name: partial(torchvision_network, name)
        for name in ("googlenet", "resnet50", "mobilenet_v2")
    },
}
