"""Networks from images (N, C, H, W) to raw embeddings (N, D)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from heated.common.errors import InputError
from heated.common.initializers import variance_scaling_

Shape = tuple[int, int, int]  # channels, height, width


def lenet(image_shape: Shape, embedding_dim: int) -> nn.Module:
    """The authors' LeNet: two 5x5 convolutions of 32 and 64 channels, each max-pooled, 500 hidden
    units, ReLU throughout; no batch norm, no dropout (paper section 4.1; lenet.py)."""
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
    """Four blocks of 3x3 convolution, batch norm, ReLU and, while two pixels a side are left,
    2x2 max-pooling; then a linear bottleneck. The few-shot field's small network, for 8x8 to 84x84.
    """
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


def googlenet(
    image_shape: Shape, embedding_dim: int, *, batch_norm: Mapping[str, Any], frozen_blocks: int
) -> nn.Module:
    """GoogLeNet (Inception V1) with batch norm, its 1024 pooled features brought to D by a linear
    bottleneck without dropout, as in the paper; for 3 channels, about 224x224. ImageNet's weights
    want pixels in [-1, 1]: mean and deviation 0.5."""
    from torchvision.models import googlenet as torchvisions  # takes a second: only where wanted

    network = torchvisions(
        weights=None, init_weights=False, aux_logits=False, transform_input=False
    )
    network.dropout = nn.Identity()
    network.fc = nn.Linear(network.fc.in_features, embedding_dim)
    return adapted(network, [*network.children()][:-3], image_shape, batch_norm, frozen_blocks)


def resnet50(
    image_shape: Shape, embedding_dim: int, *, batch_norm: Mapping[str, Any], frozen_blocks: int
) -> nn.Module:
    """ResNet-50, its 2048 pooled features brought to D by a linear bottleneck; for 3 channels,
    about 224x224. Published with batch norm of eps 1e-5; wants ImageNet's mean and deviation."""
    from torchvision.models import resnet50 as torchvisions

    network = torchvisions(weights=None)
    network.fc = nn.Linear(network.fc.in_features, embedding_dim)
    return adapted(network, [*network.children()][:-2], image_shape, batch_norm, frozen_blocks)


def mobilenet_v2(
    image_shape: Shape, embedding_dim: int, *, batch_norm: Mapping[str, Any], frozen_blocks: int
) -> nn.Module:
    """MobileNetV2, its 1280 pooled features brought to D by a linear bottleneck without dropout;
    for 3 channels, about 224x224. Published with batch norm of eps 1e-5; wants ImageNet's mean and
    deviation."""
    from torchvision.models import mobilenet_v2 as torchvisions

    network = torchvisions(weights=None)
    network.classifier = nn.Linear(network.last_channel, embedding_dim)
    return adapted(network, [*network.features], image_shape, batch_norm, frozen_blocks)


def adapted(
    network: nn.Module,
    blocks: Sequence[nn.Module],
    image_shape: Shape,
    batch_norm: Mapping[str, Any],
    frozen_blocks: int,
) -> nn.Module:
    """One of torchvision's networks with our starting weights and the batch norm that is asked for;
    so many of its blocks, from the images on, stay as the weights that it begins with have them.
    InputError where there are not as many, or images are not of the three channels it takes."""
    if image_shape[0] != 3:
        raise InputError(f"came images of {image_shape[0]} channels; allowed: 3, red green blue")
    if frozen_blocks > len(blocks):
        raise InputError(
            f"frozen_blocks: came {frozen_blocks}; allowed: 0 to {len(blocks)}, all of the network "
            "but its bottleneck"
        )
    still = [layer for block in blocks[:frozen_blocks] for layer in block.modules()]
    for layer in still:
        layer.requires_grad_(False)
    set_batch_norm(network, still, **batch_norm)
    return initialised(network)


def set_batch_norm(
    network: nn.Module, still: Sequence[nn.Module], *, momentum: float, eps: float, frozen: bool
) -> None:
    """Give every batch norm of the network this momentum, the share of the new batch, and eps.
    Frozen, or among the layers that hold still: its statistics, scale and shift stay as they came,
    in training mode too."""
    from torchvision.ops import FrozenBatchNorm2d

    for parent in list(network.modules()):
        for name, layer in parent.named_children():
            if isinstance(layer, nn.BatchNorm2d):
                layer.momentum, layer.eps = momentum, eps
                if frozen or layer in still:
                    setattr(parent, name, FrozenBatchNorm2d(layer.num_features, eps))


def initialised(network: nn.Module) -> nn.Module:
    """The network with variance scaling of factor 2 on every weight, and biases of 0."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            variance_scaling_(layer.weight, scale=2)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return network


def bottleneck(network: nn.Module) -> str:
    """The name of a backbone's last layer, which brings its features to D."""
    return [name for name, layer in network.named_modules() if isinstance(layer, nn.Linear)][-1]


BACKBONES: dict[str, Callable[..., nn.Module]] = {
    "lenet": lenet,
    "conv4": conv4,
    "googlenet": googlenet,
    "resnet50": resnet50,
    "mobilenet_v2": mobilenet_v2,
}
