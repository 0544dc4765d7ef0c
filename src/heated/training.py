"""The loop, written out: every image once an epoch, alpha and learning rate set epoch by epoch.

Order and augmentation of an epoch depend on the seed and the epoch alone, so that methods of one
seed see the same batches, and any epoch can be repeated by itself.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor
from torch.optim import Optimizer
from tqdm import tqdm

from heated.history import Row
from heated.models import Model, Options, split_choice

OPTIMISERS: dict[str, Callable[..., Optimizer]] = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}


def train(
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    alphas: Sequence[float],
    lrs: Sequence[float],
    optimiser: Options,
    batch_size: int,
    seed: int,
    watch_every: int,
    watch: Callable[[], Mapping[str, float]],
    log: Callable[[Row], None],
) -> list[Row]:
    """The history, a row an epoch, of training `model` in place.

    images: (N, H, W, C) uint8 and labels (N,) int64 in [0, num_classes), on the model's device.
    alphas, lrs: the values in each epoch; their length is the number of epochs.
    watch: called after every `watch_every`-th epoch and the last for what else goes into the row.
    log: called with each row.
    FloatingPointError when the loss is no longer finite.
    """
    name, options = split_choice(optimiser)
    stepper = OPTIMISERS[name](model.parameters(), lr=lrs[0], **options)
    history = []
    values = tqdm(list(zip(alphas, lrs, strict=True)), f"seed {seed}", unit="epoch", disable=None)
    for epoch, (alpha, lr) in enumerate(values):
        model.head.alpha = alpha
        for group in stepper.param_groups:
            group["lr"] = lr
        generator = epoch_generator(seed, epoch)
        done = train_epoch(
            model, images, labels, optimiser=stepper, batch_size=batch_size, generator=generator
        )
        settings = {"epoch": epoch, "alpha": alpha, "temperature": 1 / alpha, "lr": lr}
        if not math.isfinite(done["loss"]):
            raise FloatingPointError(
                f"seed {seed}: the loss is {done['loss']} in {settings}; try a smaller lr, or a "
                "smaller alpha at the start"
            )
        watched = (epoch + 1) % watch_every == 0 or epoch == len(alphas) - 1
        row = {**settings, **done, **(watch() if watched else {})}
        history.append(row)
        log(row)
    return history


def train_epoch(
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    optimiser: Optimizer,
    batch_size: int,
    generator: Generator,
) -> dict[str, float]:
    """Mean loss, and accuracy over the training classes, of one pass in training mode."""
    model.train()
    device = images.device
    order = torch.randperm(len(labels), generator=generator).to(device)
    loss_sum, correct = torch.zeros((), device=device), torch.zeros((), device=device)
    for batch in batches(order, batch_size):
        target = labels[batch]
        logits = model.head.logits(model.network(model.prepare(images[batch], generator)))
        loss = model.head.loss(logits, target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        loss_sum += loss.detach() * len(batch)
        correct += (logits.detach().argmax(dim=1) == target).sum()
    return {"loss": loss_sum.item() / len(labels), "accuracy": correct.item() / len(labels)}


def batches(order: Tensor, size: int) -> Iterator[Tensor]:
    """`order` in pieces of `size`; the last may be smaller, as in the authors' code, but a single
    sample left over joins the piece before it, since batch norm needs two."""
    pieces = list(order.split(size))
    if len(pieces) > 1 and len(pieces[-1]) == 1:
        pieces[-2:] = [torch.cat(pieces[-2:])]
    yield from pieces


def epoch_generator(seed: int, epoch: int) -> Generator:
    """A CPU generator for one epoch of one seed."""
    state: Any = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0]
    return Generator().manual_seed(int(state) >> 1)
