"""Alpha that no schedule sets: learned by gradient descent, or set anew in every step by AdaCos."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Unadapted(nn.Module):
    """Alpha is what it was set to."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()

    def alpha(self, given: Tensor) -> Tensor:
        """Alpha, from the one that was set."""
        return given

    def adapt(self, head: Any, z: Tensor, labels: Tensor) -> None:
        """Before a step with similarities z (N, C): nothing."""


class Learned(Unadapted):
    """Alpha is learned, as in NormFace (Wang et al., arXiv 1704.06369, section 3.3): `exponent` is
    its logarithm beyond the one that was set, so that it stays above 0 and learns at the same pace
    whatever its size."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.exponent = nn.Parameter(torch.zeros(()))

    def alpha(self, given: Tensor) -> Tensor:
        """The alpha that was set, times e to the exponent."""
        return given * self.exponent.exp()


class AdaCos(Unadapted):
    """Alpha by AdaCos (Zhang et al., arXiv 1905.00292, eq. 12 and 15), from the last one: of a
    batch, the others' mean sum of exp(alpha z), and the median angle to the own class, at most 45
    degrees. It begins at sqrt(2) log(C - 1), whatever it was set to. For unit vectors."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        if num_classes < 3:
            raise ValueError(f"adacos: came {num_classes} classes; allowed: at least 3")
        self.register_buffer("current", torch.tensor(math.sqrt(2) * math.log(num_classes - 1)))

    def alpha(self, given: Tensor) -> Tensor:
        """The last alpha."""
        current: Tensor = self.current  # type: ignore[assignment]
        return current

    def adapt(self, head: Any, z: Tensor, labels: Tensor) -> None:
        """While training, the next alpha from z (N, C)."""
        if head.training:
            self.alpha(z).copy_(adacos(z.detach(), labels, self.alpha(z)))


def adacos(z: Tensor, labels: Tensor, alpha: Tensor) -> Tensor:
    """AdaCos's next alpha: log(B) / cos(min(45 degrees, median angle)), from cosines z (N, C). B is
    the mean over the batch of the others' sum of exp(alpha z)."""
    own = labels[:, None]
    others = (alpha * z).scatter(1, own, -math.inf).logsumexp(dim=1)
    log_mean = others.logsumexp(dim=0) - math.log(len(z))
    angle = z.gather(1, own).clamp(-1, 1).acos().median()
    return log_mean / angle.clamp(max=math.pi / 4).cos()


ADAPTATIONS: dict[str, Callable[[int], Unadapted]] = {
    "none": Unadapted,
    "learned": Learned,
    "adacos": AdaCos,
}
