"""Networks from images (N, C, H, W) to raw embeddings (N, D)."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import nn

from heated.common.errors import InputError, check_choice
from heated.common.geometry import variance_scaling_

PRETRAINED = ("googlenet", "resnet50", "mobilenet_v2")  # torchvision's networks
Shape = tuple[int, int, int]  # channels, height, width


def lenet(image_shape: Shape, embedding_dim: int) -> nn.Module:
    """Build the LeNet of the paper (section 4.1) and the authors' lenet.py, without batch norm."""
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
    return initialize_weights(network)


def conv4(image_shape: Shape, embedding_dim: int, *, width: int) -> nn.Module:
    """Build the Conv-4 of few-shot learning, with fewer poolings for images below 16x16."""
    channels, *size = image_shape
    layers: list[nn.Module] = []
    for _ in range(4):
        convolution = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
        if min(size) >= 2:
            layers += [nn.MaxPool2d(2)]
            size = [side // 2 for side in size]
    layers += [nn.Flatten(), nn.Linear(channels * size[0] * size[1], embedding_dim)]
    return initialize_weights(nn.Sequential(*layers))


def torchvision_network(
    name: str,
    image_shape: Shape,
    embedding_dim: int,
    *,
    batch_norm: Mapping[str, Any],
    frozen_blocks: int,
) -> nn.Module:
    """Build a torchvision network for images of about 224x224, with a linear bottleneck.

    The ImageNet weights of googlenet (Inception V1 with batch norm, as in the paper) need a pixel
    mean and std of 0.5; those of resnet50 and mobilenet_v2 need ImageNet's, and batch norm with eps
    1e-5. `batch_norm`: options of `configure_batch_norm`. `frozen_blocks`: number of first blocks
    that are not trained.
    """
    from torchvision.models import get_model  # takes a second to import

    if image_shape[0] != 3:
        raise InputError(f"{name}: got images of {image_shape[0]} channels, expected 3 (RGB)")
    disabled = ("init_weights", "aux_logits", "transform_input") if name == "googlenet" else ()
    network = get_model(name, weights=None, **dict.fromkeys(disabled, False))
    features = network.get_submodule(bottleneck_name(network)).in_features
    if name == "mobilenet_v2":
        network.classifier = nn.Linear(features, embedding_dim)
        blocks = [*network.features]
    else:
        network.fc, network.dropout = nn.Linear(features, embedding_dim), nn.Identity()
        blocks = [*network.children()][:-3]  # without pooling, dropout and bottleneck
    if frozen_blocks > len(blocks):
        raise InputError(f"frozen_blocks: got {frozen_blocks}, expected 0 to {len(blocks)}")
    frozen_layers = [layer for block in blocks[:frozen_blocks] for layer in block.modules()]
    for layer in frozen_layers:
        layer.requires_grad_(False)
    configure_batch_norm(network, frozen_layers, **batch_norm)
    return initialize_weights(network)


def configure_batch_norm(
    network: nn.Module,
    frozen_layers: Sequence[nn.Module],
    *,
    momentum: float,
    eps: float,
    frozen: bool,
    scale: bool = True,
) -> None:
    """Set momentum (the weight of the new batch) and eps of every batch norm; freeze some or all.

    A frozen one keeps statistics, scale and shift in training mode, too. With `scale` False, scales
    are not trained: they are 1, or those of the pretrained weights.
    """
    from torchvision.ops import FrozenBatchNorm2d

    for parent in list(network.modules()):
        for name, layer in parent.named_children():
            if isinstance(layer, nn.BatchNorm2d):
                layer.momentum, layer.eps = momentum, eps
                layer.weight.requires_grad_(scale and layer.weight.requires_grad)
                if frozen or layer in frozen_layers:
                    setattr(parent, name, FrozenBatchNorm2d(layer.num_features, eps))


def initialize_weights(network: nn.Module) -> nn.Module:
    """Initialize weights by variance scaling of factor 2, and biases by 0."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            variance_scaling_(layer.weight, scale=2)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return network


def build_backbone(
    image_shape: Shape, embedding_dim: int, *, name: str, pooling: str | None = None, **options: Any
) -> nn.Module:
    """Build a network of BACKBONES; with the pooling "max", global pooling takes the maximum."""
    network = BACKBONES[name](image_shape, embedding_dim, **options)
    if pooling is not None:
        check_choice("pooling", pooling, ("max",))
        use_max_pooling(network)
    return network


def use_max_pooling(network: nn.Module) -> None:
    """Let global pooling take the maximum; raise InputError if a network flattens a larger map."""
    if hasattr(network, "avgpool"):
        network.avgpool = nn.AdaptiveMaxPool2d(1)
    elif isinstance(features := getattr(network, "features", None), nn.Sequential):
        features.append(nn.AdaptiveMaxPool2d(1))  # mobilenet_v2: its mean is then of one value
    else:
        layers = [each for each in network.modules() if isinstance(each, nn.Conv2d | nn.Linear)]
        channels = [each.out_channels for each in layers if isinstance(each, nn.Conv2d)][-1]
        flat = next(each.in_features for each in layers if isinstance(each, nn.Linear))
        if flat != channels:
            raise InputError(
                f"pooling: got 'max' with a network that flattens a map of {flat // channels} "
                "positions, expected global pooling, or images so small that one is left"
            )


def bottleneck_name(network: nn.Module) -> str:
    """Return the name of the last linear layer, which maps features to embeddings."""
    return [name for name, layer in network.named_modules() if isinstance(layer, nn.Linear)][-1]


BACKBONES: dict[str, Callable[..., nn.Module]] = {
    "lenet": lenet,
    "conv4": conv4,
    **{name: partial(torchvision_network, name) for name in PRETRAINED},
}
