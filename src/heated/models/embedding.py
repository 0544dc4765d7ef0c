"""A trained model over many images: embeddings (N, D) float32, raw, not of unit length."""

import math

import torch
from torch import Tensor
from tqdm import tqdm

from heated.data.batches import Held, Mapped
from heated.models.embedding_model import EmbeddingModel
from heated.runtime.distributed import all_reduce_sum, is_main_process, local_shard

IMAGES = 512  # at a time, at most; the result does not depend on it, nor on the pixels
PIXELS = 2**24  # prepared, at a time: 64 MiB of float32


def embed(model: EmbeddingModel, images: Held | Mapped, *, quiet: bool = False) -> Tensor:
    """Return (N, D) float32 on the model's device, and leave the model in eval mode.

    Processes share the work, and each returns the whole.
    """
    model.eval()
    device = model.device
    embeddings = torch.zeros(len(images), model.architecture.embedding_dim, device=device)
    pieces = local_shard(torch.arange(len(images)).split(at_a_time(model)))
    told = tqdm(pieces, desc="embedding", disable=quiet or not is_main_process() or None)
    with torch.inference_mode():
        for numbers, pixels in zip(told, images.batches(pieces), strict=True):
            embeddings[numbers.to(device)] = model(pixels).float()
    return all_reduce_sum(embeddings)


def at_a_time(model: EmbeddingModel) -> int:
    """Return how many images go through the model at once: fewer if they are large."""
    return max(1, min(IMAGES, PIXELS // math.prod(model.input_shape)))
