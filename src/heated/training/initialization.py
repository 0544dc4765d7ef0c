"""Initialize a model before the first epoch, as in the authors' code."""

from collections.abc import Callable

import torch
from torch import Tensor

from heated.common.errors import InputError
from heated.common.geometry import class_means
from heated.common.progress import progress_bar
from heated.data.packed_dataset import Images
from heated.data.samplers import split_batches
from heated.losses.heated_softmax import HeatedSoftmax
from heated.models.embedding_model import ModelWithLoss, embed
from heated.runtime.device import float32_products
from heated.runtime.distributed import is_main_process, local_slice
from heated.training.gradient_step import raw_embeddings

EPS = 1e-4  # added to a mean's squared norm, as in the authors' code


def update_batch_norm(
    model: ModelWithLoss, images: Images, labels: Tensor, *, batch_size: int, precision: str
) -> None:
    """Update the running statistics of batch norm by one pass over N images without augmentation.

    Nothing else changes, as in the authors' code, which takes steps at a learning rate of 0.
    """
    model.train()
    pieces = split_batches(torch.arange(len(labels)), batch_size)
    local = [piece[local_slice(len(piece))] for piece in pieces]
    quiet = {"disable": not is_main_process()}
    with torch.no_grad(), float32_products(tf32=precision == "tf32"):
        for pixels in progress_bar(images.iter_batches(local), "init", total=len(local), **quiet):
            model.normalization(raw_embeddings(model, model.prepare(pixels), precision))


def set_classifier_to_class_means(
    model: ModelWithLoss, images: Images, labels: Tensor, *, batch_size: int, precision: str
) -> None:
    """Update batch norm; set each class's weights to the normalized mean of its embeddings."""
    if not isinstance(model.head, HeatedSoftmax):
        raise InputError(
            "init: got 'class_means' with a loss of pytorch-metric-learning, whose class "
            "weights are not accessible, expected 'batch_norm' or 'none'."
        )
    update_batch_norm(model, images, labels, batch_size=batch_size, precision=precision)
    means = class_means(embed(model, images, quiet=True), labels)
    norms = (means.square().sum(dim=1, keepdim=True) + EPS).sqrt()
    with torch.no_grad():
        model.head.weight.copy_(means / norms)


INITIALIZERS: dict[str, Callable[..., None]] = {
    "none": lambda *_, **__: None,
    "batch_norm": update_batch_norm,
    "class_means": set_classifier_to_class_means,
}
