"""Alpha that no schedule sets: learned by gradient descent, or set in every step by AdaCos."""

import math
from typing import Any

import torch
from torch import Tensor, nn


class Unadapted(nn.Module):
    """Leave alpha as it was set."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()

    def alpha(self, given: Tensor) -> Tensor:
        """Return alpha, from the one that was set."""
        return given

    def adapt(self, head: Any, z: Tensor, labels: Tensor) -> None:
        """Do what is due before a step with similarities z (N, C)."""


class Learned(Unadapted):
    """Learn alpha, as in NormFace (Wang et al., arXiv 1704.06369, section 3.3).

    `exponent` is its logarithm relative to the one that was set: alpha stays above 0, and learns at
    the same pace whatever its size.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.exponent = nn.Parameter(torch.zeros(()))

    def alpha(self, given: Tensor) -> Tensor:
        return given * self.exponent.exp()


class AdaCos(Unadapted):
    """Set alpha by AdaCos (Zhang et al., arXiv 1905.00292, eq. 12 and 15), for unit vectors.

    It starts at sqrt(2) log(C - 1), whatever it was set to.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        if num_classes < 3:
            raise ValueError(f"adacos: came {num_classes} classes; allowed: at least 3")
        self.register_buffer("current", torch.tensor(math.sqrt(2) * math.log(num_classes - 1)))

    def alpha(self, given: Tensor) -> Tensor:
        current: Tensor = self.current  # type: ignore[assignment]
        return current

    def adapt(self, head: Any, z: Tensor, labels: Tensor) -> None:
        if head.training:
            self.alpha(z).copy_(adacos(z.detach(), labels, self.alpha(z)))


def adacos(z: Tensor, labels: Tensor, alpha: Tensor) -> Tensor:
    """Return log(B) / cos(min(45 degrees, median angle to the own class)), from cosines z (N, C).

    B is the mean over the batch of the sum of exp(alpha z) over the other classes.
    """
    own = labels[:, None]
    others = (alpha * z).scatter(1, own, -math.inf).logsumexp(dim=1)
    log_mean = others.logsumexp(dim=0) - math.log(len(z))
    angle = z.gather(1, own).clamp(-1, 1).acos().median()
    return log_mean / angle.clamp(max=math.pi / 4).cos()


ADAPTATIONS = {"none": Unadapted, "learned": Learned, "adacos": AdaCos}
