"""Optimizers from groups of parameters and a learning rate; all state is in tensors, so that
checkpoints hold it."""

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch.optim import Optimizer


class AdamTF(torch.optim.Adam):
    """Adam with epsilon where TensorFlow's `AdamOptimizer` has it: added to the root of the second
    moment before its bias is corrected ("epsilon hat" in Kingma and Ba, section 2). That is torch's
    Adam with eps / sqrt(1 - 0.999^t) in step t; with the authors' 0.01 it matters for thousands of
    steps."""

    def __init__(self, groups: Iterable[dict[str, Any]], *, lr: float, eps: float) -> None:
        super().__init__(groups, lr=lr, fused=True)
        self.epsilon_hat, self.taken = eps, 0

    def step(self, closure: Any = None) -> Any:
        """Take one step; return the closure's value, if there is one."""
        self.taken += 1
        for group in self.param_groups:
            group["eps"] = self.epsilon_hat / math.sqrt(1 - group["betas"][1] ** self.taken)
        return super().step(closure)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state and the number of steps taken."""
        super().load_state_dict(dict(state))
        self.taken = max((int(values["step"]) for values in self.state.values()), default=0)


OPTIMISERS: dict[str, Callable[..., Optimizer]] = {
    "sgd": partial(torch.optim.SGD, fused=True),
    "adam": partial(torch.optim.Adam, fused=True),
    "adam_tf": AdamTF,
}
