"""The state of a training between two steps, and the optimizers that change it.

All state of an optimizer is in tensors, so that checkpoints hold it.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self

import torch
from torch import Generator, Tensor
from torch.optim import Optimizer

from heated.common.history import Row
from heated.losses.heated_softmax import HeatedSoftmax
from heated.losses.pml import PMLLoss
from heated.models.backbones import bottleneck_name
from heated.models.embedding_model import ModelWithLoss, name_and_options
from heated.runtime.distributed import sync_batch_norm
from heated.training.alpha_scheduler import AlphaScheduler
from heated.training.checkpoints import Checkpoint
from heated.training.recipe import Recipe


class AdamTF(torch.optim.Adam):
    """Adam with epsilon as in TensorFlow: added before the bias correction of the second moment.

    See "epsilon hat" in Kingma and Ba, section 2. This is torch's Adam with eps / sqrt(1 - 0.999^t)
    in step t. With the authors' eps of 0.01 the difference matters for thousands of steps.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], *, lr: float, eps: float) -> None:
        super().__init__(groups, lr=lr, fused=True)
        self.epsilon_hat, self.steps = eps, 0

    def step(self, closure: Any = None) -> Any:
        """Take one step; return the closure's value, if there is one."""
        self.steps += 1
        for group in self.param_groups:
            group["eps"] = self.epsilon_hat / math.sqrt(1 - group["betas"][1] ** self.steps)
        return super().step(closure)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state and the number of steps."""
        super().load_state_dict(dict(state))
        self.steps = max((int(values["step"]) for values in self.state.values()), default=0)


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "sgd": partial(torch.optim.SGD, fused=True),
    "adam": partial(torch.optim.Adam, fused=True),
    "adam_tf": AdamTF,
}


@dataclass
class TrainState:
    """Everything that the next step depends on, apart from the data and the recipe."""

    model: ModelWithLoss
    optimizer: Optimizer  # each parameter group has an `lr_mult`
    alpha_scheduler: AlphaScheduler | None  # None if the loss has no alpha to set
    seed: int  # determines, with the epoch, the order of the images and their augmentation
    sums: Tensor  # (3,) float64, of this epoch: loss, correct predictions, steps with a finite loss
    generator: Generator = field(default_factory=Generator)  # of the rest of the epoch
    history: list[Row] = field(default_factory=list)  # one row per finished epoch
    step: int = 0  # finished steps of the current epoch
    angles: dict[int, Tensor] = field(default_factory=dict)  # (N,) by epoch, see `make_monitor`

    @classmethod
    def create(cls, model: ModelWithLoss, recipe: Recipe, seed: int) -> Self:
        """Create the state before the first step; parameters that are frozen now stay frozen."""
        name, options = name_and_options(recipe.optimizer)
        last = [*model.network.get_submodule(bottleneck_name(model.network)).parameters()]
        below = [each for each in model.network.parameters() if all(each is not p for p in last)]
        head = [*model.normalization.parameters(), *model.head.parameters()]
        factors = (1.0, recipe.bottleneck_lr_mult, recipe.classifier_lr_mult)
        groups = [
            {"params": [each for each in part if each.requires_grad], "lr_mult": factor}
            for part, factor in zip((below, last, head), factors, strict=True)
        ]
        sync_batch_norm(model)
        sums = torch.zeros(3, dtype=torch.float64, device=model.device)
        optimizer = OPTIMIZERS[name](groups, lr=0.0, **options)
        return cls(model, optimizer, make_alpha_scheduler(model.head, recipe.alphas), seed, sums)

    def alpha(self) -> float | None:
        """Return alpha as trained or as last set, None if the loss has none to set."""
        if isinstance(self.model.head, HeatedSoftmax):
            return self.model.head.alpha
        return None if self.alpha_scheduler is None else self.alpha_scheduler.get_last_alpha()

    def to_checkpoint(self, **record: Any) -> Checkpoint:
        """Return the state as a checkpoint, whose record has further values."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        for number, values in self.optimizer.state_dict()["state"].items():
            for name, value in values.items():
                if value is not None:
                    tensors[f"optimizer.{number}.{name}"] = value
        tensors |= {f"angles.{epoch}": angles for epoch, angles in self.angles.items()}
        tensors |= {"sums": self.sums, "generator": self.generator.get_state()}
        return Checkpoint(tensors, {"history": self.history, "step": self.step, **record})

    def restore(self, checkpoint: Checkpoint) -> None:
        """Return to the state of the checkpoint."""
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}, "angles": {}}
        for name, value in checkpoint.tensors.items():
            part, _, rest = name.partition(".")
            parts.get(part, {})[rest] = value
        self.model.load_state_dict(parts["model"])
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in parts["optimizer"].items():
            number, _, rest = name.partition(".")
            state.setdefault(int(number), {})[rest] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        for parameter, values in self.optimizer.state.items():
            for name, value in values.items():
                if value.shape == parameter.shape:  # use the parameter's memory format again
                    values[name] = torch.empty_like(parameter).copy_(value)
        self.sums.copy_(checkpoint.tensors["sums"])
        self.generator.set_state(checkpoint.tensors["generator"])
        self.angles = {int(epoch): angles for epoch, angles in parts["angles"].items()}
        self.history, self.step = checkpoint.record["history"], checkpoint.record["step"]
        if self.alpha_scheduler is not None:
            self.alpha_scheduler.load_state_dict({"last_epoch": len(self.history)})


def make_alpha_scheduler(
    head: HeatedSoftmax | PMLLoss, alphas: Sequence[float | None]
) -> AlphaScheduler | None:
    """Return the scheduler of a loss, None for one of the library without a scale to set."""
    if isinstance(head, HeatedSoftmax):
        return AlphaScheduler(head, alphas)
    if head.scale_option is None:
        return None
    return AlphaScheduler(head.criterion, alphas, attribute=head.scale_option)
