"""Starting weights as TensorFlow's variance scaling draws them, which the authors' code uses."""

from torch import Tensor, nn

TRUNCATED_STD = 0.87962566103423978  # of a unit normal cut off at two deviations


def variance_scaling_(weight: Tensor, *, scale: float) -> Tensor:
    """`weight` (outputs, inputs, ...) filled from a normal cut off at two deviations, with
    variance scale / fan-in; drawn from torch's global generator, like every module's weights."""
    fan_in = weight[0].numel()
    std = (scale / fan_in) ** 0.5 / TRUNCATED_STD
    return nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)
