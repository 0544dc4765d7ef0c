"""What is done before the first epoch: nothing, or batch norm's statistics settle, after which the
classifier may begin at the classes' means; as in the authors' code."""

from collections.abc import Callable

import torch
from torch import Tensor
from tqdm import tqdm

from heated.common.errors import InputError
from heated.data.batches import Held, Mapped
from heated.data.samplers import batches
from heated.losses.heated_softmax import HeatedSoftmax
from heated.models.embedding import embed
from heated.models.embedding_model import Model
from heated.runtime.distributed import first, part
from heated.training.loop import raw_embeddings

FLOOR = 1e-4  # added to a mean's squared length, as the authors do


def settle_batch_norm(
    model: Model, images: Held | Mapped, labels: Tensor, *, batch_size: int, precision: str
) -> None:
    """Pass the images (N of them) through the model once, in order, as at test time but in training
    mode: the running statistics of its batch norms change and nothing else. The authors take
    optimiser steps at a learning rate of 0 instead, which comes to the same."""
    model.train()
    pieces = batches(torch.arange(len(labels)), batch_size)
    own = [piece[part(len(piece))] for piece in pieces]
    feed = tqdm(images.batches(own), "warm-up", len(own), disable=None if first() else True)
    with torch.no_grad():
        for pixels in feed:
            model.normalization(raw_embeddings(model, model.prepare(pixels), precision))


def begin_at_class_means(
    model: Model, images: Held | Mapped, labels: Tensor, *, batch_size: int, precision: str
) -> None:
    """Settle batch norm; then each class's weights are the mean of its embeddings, as they are
    compared at test time, brought to a length of 1."""
    if not isinstance(model.head, HeatedSoftmax):
        raise InputError(
            "warm_up: came class_means with a loss of pytorch-metric-learning, whose classes have "
            "no weights that are known here; allowed: batch_norm, none"
        )
    settle_batch_norm(model, images, labels, batch_size=batch_size, precision=precision)
    weight = model.head.weight
    means = class_means(embed(model, images, quiet=True), labels, len(weight))
    lengths = (means.square().sum(dim=1, keepdim=True) + FLOOR).sqrt()
    with torch.no_grad():
        weight.copy_(means / lengths)


def class_means(embeddings: Tensor, labels: Tensor, classes: int) -> Tensor:
    """(C, D) float64: the mean embedding of each class, from (N, D) and (N,) int64 in [0, C)."""
    sums = embeddings.new_zeros(classes, embeddings.shape[1], dtype=torch.float64)
    # unlike index_add_, the same bits each time on a GPU too
    sums.index_put_((labels,), embeddings.double(), accumulate=True)
    return sums / labels.bincount(minlength=classes)[:, None]


def nothing(
    model: Model, images: Held | Mapped, labels: Tensor, *, batch_size: int, precision: str
) -> None:
    """Leave the model as it is."""


WARM_UPS: dict[str, Callable[..., None]] = {
    "none": nothing,
    "batch_norm": settle_batch_norm,
    "class_means": begin_at_class_means,
}
