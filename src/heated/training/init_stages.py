"""Initialization before the first epoch, as in the authors' code: none, batch norm's statistics, or
in addition the classifier at the classes' means."""

from collections.abc import Callable

import torch
from torch import Tensor
from tqdm import tqdm

from heated.common.errors import InputError
from heated.common.geometry import class_means
from heated.data.batches import Held, Mapped
from heated.data.samplers import batches
from heated.losses.heated_softmax import HeatedSoftmax
from heated.models.embedding import embed
from heated.models.embedding_model import Model
from heated.runtime.distributed import is_main_process, local_slice
from heated.training.loop import raw_embeddings

FLOOR = 1e-4  # added to a mean's squared length, as the authors do


def settle_batch_norm(
    model: Model, images: Held | Mapped, labels: Tensor, *, batch_size: int, precision: str
) -> None:
    """Update the running statistics of batch norm, and nothing else, by one pass over the N images
    in order, without augmentation; as the authors' optimizer steps at a learning rate of 0 do."""
    model.train()
    pieces = batches(torch.arange(len(labels)), batch_size)
    own = [piece[local_slice(len(piece))] for piece in pieces]
    feed = tqdm(
        images.batches(own), "warm-up", len(own), disable=None if is_main_process() else True
    )
    with torch.no_grad():
        for pixels in feed:
            model.normalization(raw_embeddings(model, model.prepare(pixels), precision))


def begin_at_class_means(
    model: Model, images: Held | Mapped, labels: Tensor, *, batch_size: int, precision: str
) -> None:
    """Settle batch norm; then set each class's weights to the mean of its embeddings, as they are
    compared at test time, of length 1."""
    if not isinstance(model.head, HeatedSoftmax):
        raise InputError(
            "warm_up: came class_means with a loss of pytorch-metric-learning, whose classes have "
            "no weights that are known here; allowed: batch_norm, none"
        )
    settle_batch_norm(model, images, labels, batch_size=batch_size, precision=precision)
    means = class_means(embed(model, images, quiet=True), labels)
    lengths = (means.square().sum(dim=1, keepdim=True) + FLOOR).sqrt()
    with torch.no_grad():
        model.head.weight.copy_(means / lengths)


WARM_UPS: dict[str, Callable[..., None]] = {
    "none": lambda *_, **__: None,
    "batch_norm": settle_batch_norm,
    "class_means": begin_at_class_means,
}
