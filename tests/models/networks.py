"""Networks of every backbone, each initialized once and copied, since large ones take seconds."""

from copy import deepcopy
from functools import cache

import torch
from torch import nn

from heated.models.backbones import BACKBONES, configure_batch_norm

LARGE = ("googlenet", "resnet50", "mobilenet_v2")
BATCH_NORM = {"momentum": 0.05, "eps": 1e-3, "frozen": False}


def make_network(
    name: str, *, shape: tuple[int, int, int] = (3, 64, 64), dim: int = 64, seed: int = 0, **options
) -> nn.Module:
    """Build a backbone; options are those of batch norm, and `frozen_blocks`."""
    if name not in LARGE:
        torch.manual_seed(seed)
        return BACKBONES[name](shape, dim, **({"width": 32} if name == "conv4" else {}))
    network = deepcopy(make_large_network(name, dim, seed, options.pop("frozen_blocks", 0)))
    configure_batch_norm(network, [], **BATCH_NORM | options)
    return network


@cache
def make_large_network(name: str, dim: int, seed: int, frozen_blocks: int) -> nn.Module:
    torch.manual_seed(seed)
    return BACKBONES[name]((3, 64, 64), dim, batch_norm=BATCH_NORM, frozen_blocks=frozen_blocks)
