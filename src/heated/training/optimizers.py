"""What changes the weights by their gradients, from groups of parameters and a learning rate; all
state is in tensors, so that checkpoints hold it."""

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch.optim import Optimizer


class AdamTF(torch.optim.Adam):
    """Adam as TensorFlow's `AdamOptimizer` places epsilon: beside the root of the second moment
    before its bias is corrected ("epsilon hat" in Kingma and Ba, section 2), which matters in the
    first thousands of steps where it is as large as the authors' 0.01.

    That is torch's Adam with eps / sqrt(1 - 0.999^t) in step t.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], *, lr: float, eps: float) -> None:
        super().__init__(groups, lr=lr, fused=True)
        self.epsilon_hat, self.taken = eps, 0

    def step(self, closure: Any = None) -> Any:
        """One step; what the closure gives, if there is one."""
        self.taken += 1
        for group in self.param_groups:
            group["eps"] = self.epsilon_hat / math.sqrt(1 - group["betas"][1] ** self.taken)
        return super().step(closure)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to where the state was taken."""
        super().load_state_dict(dict(state))
        self.taken = max((int(values["step"]) for values in self.state.values()), default=0)


OPTIMISERS: dict[str, Callable[..., Optimizer]] = {
    "sgd": partial(torch.optim.SGD, fused=True),
    "adam": partial(torch.optim.Adam, fused=True),
    "adam_tf": AdamTF,
}
