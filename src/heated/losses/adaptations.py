"""How a loss uses the alpha that is set: as it is, with a learned factor, or adapted to batches."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn


class FixedScale(nn.Module):
    """Alpha as the training loop sets it."""

    def forward(self, alpha: Tensor) -> Tensor:
        """Return the scale: a copy, which backward needs even if alpha is set before it runs."""
        return alpha.clone()

    def set_alpha(self, alpha: Tensor, value: float) -> None:
        """Change the state in place so that the scale is the value."""
        alpha.fill_(value)

    def update(self, z: Tensor, labels: Tensor) -> None:
        """Adapt to a batch of similarities z (N, C) and labels (N,)."""


class LearnableScale(FixedScale):
    """Alpha learned by gradient descent (NormFace, section 3.3).

    The parameter is log(alpha / alpha as set): alpha is positive and learns at a relative pace.
    """

    def __init__(self) -> None:
        super().__init__()
        self.exponent = nn.Parameter(torch.zeros(()))

    def forward(self, alpha: Tensor) -> Tensor:
        """Multiply alpha as set by the learned factor."""
        return alpha.clone() * self.exponent.exp()

    def set_alpha(self, alpha: Tensor, value: float) -> None:
        """Set alpha and forget the learned factor."""
        alpha.fill_(value)
        self.exponent.zero_()


class AdaCos(FixedScale):
    """Alpha from the angles of each training batch (AdaCos, eq. 12 and 15), for cosines z.

    alpha <- log(B) / cos(min(pi / 4, theta)), from sqrt(2) log(C - 1). B is the batch mean of
    sum_{c != y} exp(alpha z_c), theta the median of arccos(z_y).
    """

    current: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        if num_classes < 3:
            raise ValueError(f"adacos: got {num_classes} classes, expected at least 3")
        self.register_buffer("current", torch.tensor(math.sqrt(2) * math.log(num_classes - 1)))

    def forward(self, alpha: Tensor) -> Tensor:
        """Return a copy of the adapted scale."""
        return self.current.clone()

    def set_alpha(self, alpha: Tensor, value: float) -> None:
        """Set the scale from which the next batch adapts it."""
        self.current.fill_(value)

    @torch.no_grad()
    def update(self, z: Tensor, labels: Tensor) -> None:
        """Adapt in training mode, except if activation checkpointing repeats a forward pass."""
        if self.training and not is_recomputed():
            target = labels[:, None]
            log_sums = (self.current * z).scatter(1, target, -math.inf).logsumexp(dim=1)
            log_mean = log_sums.logsumexp(dim=0) - math.log(len(z))
            angle = z.gather(1, target).clamp(-1, 1).acos().median()
            self.current.copy_(log_mean / angle.clamp(max=math.pi / 4).cos())


def is_recomputed() -> bool:
    """Return whether backward runs this, to recompute activations that were not kept."""
    compiles = torch.compiler.is_compiling()  # torch.compile recomputes without Python
    return not compiles and torch._C._current_graph_task_id() != -1


ADAPTATIONS: dict[str, Callable[[int], FixedScale]] = {
    "none": lambda num_classes: FixedScale(),
    "learned": lambda num_classes: LearnableScale(),
    "adacos": AdaCos,
}
