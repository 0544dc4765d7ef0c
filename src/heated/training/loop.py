"""The loop, written out: every image once an epoch, alpha and learning rate set epoch by epoch.

Order and augmentation of an epoch depend on the seed and the epoch alone, so that methods of one
seed see the same batches. A training is a `Progress`, which can be put away between any two steps
and gone on with as if nothing had been.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor
from torch.optim import Optimizer
from tqdm import tqdm

from heated.common.history import Row
from heated.data.batches import Held, Mapped
from heated.data.samplers import SAMPLERS
from heated.data.transforms import Draws
from heated.losses.pml import PMLLoss, forked_rng
from heated.models.backbones import bottleneck
from heated.models.embedding_model import Model, Options, split_choice
from heated.runtime.distributed import (
    all_reduce_gradients,
    is_main_process,
    local_slice,
    sync_batch_norm,
)
from heated.training.optimizers import OPTIMISERS

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass
class Progress:
    """A training between two steps: all that the next step depends on.

    `history`: a row for each epoch that is done; `step`: how many steps of the next one are done;
    `sums`: their loss, right answers, and number while the loss was finite; `generator`: what the
    rest of it will draw from; `pictures`: by epoch, what is kept of a look at the unseen classes.
    """

    model: Model
    optimiser: Optimizer
    sums: Tensor
    generator: Generator = field(default_factory=Generator)
    history: list[Row] = field(default_factory=list)
    step: int = 0
    pictures: dict[int, Tensor] = field(default_factory=dict)

    @classmethod
    def begin(
        cls,
        model: Model,
        optimiser: Options,
        *,
        bottleneck_lr_factor: float = 1,
        head_lr_factor: float = 1,
    ) -> "Progress":
        """Before the first step. Bottleneck and classifier learn at the learning rate of the
        network below them, times their factors; the normalization's shift learns at the
        classifier's. What is frozen does not learn."""
        name, options = split_choice(optimiser)
        last = [*model.network.get_submodule(bottleneck(model.network)).parameters()]
        below = [each for each in model.network.parameters() if all(each is not p for p in last)]
        groups = [
            {"params": [each for each in part if each.requires_grad], "lr_factor": factor}
            for part, factor in (
                (below, 1.0),
                (last, bottleneck_lr_factor),
                ([*model.normalization.parameters(), *model.head.parameters()], head_lr_factor),
            )
        ]
        stepper = OPTIMISERS[name](groups, lr=0.0, **options)
        sync_batch_norm(model)
        return cls(model, stepper, torch.zeros(3, dtype=torch.float64, device=model.device))

    def tensors(self) -> dict[str, Tensor]:
        """Weights, optimiser and generator by name; `history` and `step` are the rest."""
        state = self.optimiser.state_dict()["state"]
        return {
            **{f"model.{name}": value for name, value in self.model.state_dict().items()},
            **{
                f"optimiser.{number}.{name}": value
                for number, values in state.items()
                for name, value in values.items()
                if value is not None
            },
            **{f"pictures.{epoch}": picture for epoch, picture in self.pictures.items()},
            "sums": self.sums,
            "generator": self.generator.get_state(),
        }

    def restore(self, tensors: Mapping[str, Tensor], history: list[Row], step: int) -> None:
        """Go back to where `tensors` were taken."""
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "optimiser": {}, "pictures": {}}
        for name, value in tensors.items():
            part, _, rest = name.partition(".")
            parts.get(part, {})[rest] = value
        self.model.load_state_dict(parts["model"])
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in parts["optimiser"].items():
            number, _, rest = name.partition(".")
            state.setdefault(int(number), {})[rest] = value
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": state, "param_groups": groups})
        for parameter, values in self.optimiser.state.items():
            for name, value in values.items():
                if value.shape == parameter.shape:  # in the parameter's memory format again
                    values[name] = torch.empty_like(parameter).copy_(value)
        self.sums.copy_(tensors["sums"])
        self.generator.set_state(tensors["generator"])
        self.pictures = {int(epoch): kept for epoch, kept in parts["pictures"].items()}
        self.history, self.step = history, step


def train(
    progress: Progress,
    images: Held | Mapped,
    labels: Tensor,
    *,
    alphas: Sequence[float | None],
    lrs: Sequence[float],
    batch_size: int,
    sampler: Options,
    precision: str,
    seed: int,
    watch_every: int,
    watch: Callable[[], Mapping[str, float]],
    log: Callable[[Row], None],
    keep: Callable[[Progress], None],
) -> None:
    """Train `progress` to the end; its history has a row an epoch.

    images: N of them, for the model's device; labels: (N,) int64 in [0, num_classes), there.
    alphas, lrs: the values in each epoch; their length is the number of epochs. Where alpha is None
    the loss has its own, or none. sampler: what makes an epoch's batches. precision: of the
    network, "float32" or "bfloat16"; classifier and loss are float32. watch: called after the
    epochs that `watched` names for what else goes into the row. log: called with each row, those
    done before too. keep: called after every step and every epoch.
    FloatingPointError when the loss is no longer finite.
    """
    for row in progress.history:
        log(row)
    epochs = list(zip(alphas, lrs, watched(len(alphas), watch_every), strict=True))
    done = len(progress.history)
    for epoch in tqdm(
        range(done, len(epochs)),
        f"seed {seed}",
        unit="epoch",
        disable=None if is_main_process() else True,
    ):
        alpha, lr, look = epochs[epoch]
        if alpha is not None:
            progress.model.head.alpha = alpha
        for group in progress.optimiser.param_groups:
            group["lr"] = lr * group["lr_factor"]
        train_epoch(
            progress,
            images,
            labels,
            batch_size=batch_size,
            sampler=sampler,
            precision=precision,
            epoch_seed=epoch_seed(seed, epoch),
            keep=keep,
        )
        loss, correct, finite = progress.sums.tolist()
        settings = {**temperature(progress.model), "lr": lr}
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"seed {seed}: the loss is not finite from step {finite:.0f} of epoch {epoch} on, "
                f"with {settings}; try a smaller lr, or a smaller alpha at the start"
            )
        means = {"loss": loss / len(labels), "accuracy": correct / len(labels)}
        if math.isnan(correct):
            del means["accuracy"]  # of a loss that names no class
        row = {"epoch": epoch, **settings, **means, **(watch() if look else {})}
        progress.history.append(row)
        progress.step = 0
        log(row)
        keep(progress)


def train_epoch(
    progress: Progress,
    images: Held | Mapped,
    labels: Tensor,
    *,
    batch_size: int,
    sampler: Options,
    precision: str,
    epoch_seed: int,
    keep: Callable[[Progress], None],
) -> None:
    """The steps of one pass in training mode that are not done yet. Nothing waits for the device:
    loss and right answers are summed over the images in `progress.sums`."""
    model, generator = progress.model, progress.generator
    model.train()
    device = labels.device
    name, options = split_choice(sampler)
    draw = Generator().manual_seed(epoch_seed)
    if progress.step == 0:
        generator.manual_seed(epoch_seed + 1)
        progress.sums.zero_()
    draws_itself = isinstance(model.head, PMLLoss)  # a miner may; our own loss never does
    pieces = SAMPLERS[name](labels, batch_size, draw, **options)[progress.step :]
    own = [batch[local_slice(len(batch))] for batch in pieces]
    for batch, numbers, pixels in zip(pieces, own, images.batches(own), strict=True):
        target = labels[numbers.to(device)]
        draws = Draws(generator, len(batch), local_slice(len(batch)))
        raw = raw_embeddings(model, model.prepare(pixels, draws), precision)
        with forked_rng(epoch_seed + 2 + progress.step) if draws_itself else nullcontext():
            loss, right = model.head.loss_and_correct(model.normalization(raw), target)
        loss = loss * (len(target) / len(batch))  # whose sum over processes is the batch's mean
        progress.optimiser.zero_grad()
        loss.backward()
        told = torch.stack([loss.detach() * len(batch), right.float()])
        all_reduce_gradients(model.parameters(), told)
        progress.optimiser.step()
        progress.sums[:2] += told
        progress.sums[2] += progress.sums[0].isfinite()
        progress.step += 1
        keep(progress)


def raw_embeddings(model: Model, prepared: Tensor, precision: str) -> Tensor:
    """(N, D) float32, which the network computes in the precision."""
    with torch.autocast(prepared.device.type, PRECISIONS[precision], precision != "float32"):
        raw: Tensor = model.network(prepared)
    return raw.float()


def temperature(model: Model) -> dict[str, float]:
    """Alpha, and temperature = 1 / alpha, of a model whose loss has them."""
    if isinstance(model.head, PMLLoss):
        return {}
    alpha = model.head.alpha.item()
    return {"alpha": alpha, "temperature": 1 / alpha}


def watched(epochs: int, every: int) -> list[bool]:
    """After which epochs the unseen classes are looked at: every so many, and the last.

    >>> watched(5, 2)
    [False, True, False, True, True]
    """
    return [(epoch + 1) % every == 0 or epoch == epochs - 1 for epoch in range(epochs)]


def epoch_seed(seed: int, epoch: int) -> int:
    """What an epoch's order is drawn from; the number after it, its augmentation."""
    state: Any = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0]
    return int(state) >> 1
