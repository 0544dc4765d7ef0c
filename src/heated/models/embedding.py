"""Embed many images with a trained model."""

import math

import torch
from torch import Tensor
from tqdm import tqdm

from heated.data.batches import InMemoryImages, MemmapImages
from heated.models.embedding_model import EmbeddingModel
from heated.runtime.distributed import all_reduce_sum, is_main_process, local_shard

MAX_BATCH = 512  # images; neither limit affects the result
MAX_PIXELS = 2**24  # values per batch: 64 MiB of float32


def embed(
    model: EmbeddingModel, images: InMemoryImages | MemmapImages, *, quiet: bool = False
) -> Tensor:
    """Compute embeddings (N, D) float32, not of unit length, on the model's device.

    Processes share the work, and each returns all embeddings. Leaves the model in eval mode.
    """
    model.eval()
    device = model.device
    embeddings = torch.zeros(len(images), model.architecture.embedding_dim, device=device)
    batches = local_shard(torch.arange(len(images)).split(batch_size_for(model)))
    progress = tqdm(batches, desc="embedding", disable=quiet or not is_main_process() or None)
    with torch.inference_mode():
        for indices, pixels in zip(progress, images.iter_batches(batches), strict=True):
            embeddings[indices.to(device)] = model(pixels).float()
    return all_reduce_sum(embeddings)


def batch_size_for(model: EmbeddingModel) -> int:
    """Return how many images to embed at once: fewer if they are large."""
    return max(1, min(MAX_BATCH, MAX_PIXELS // math.prod(model.input_shape)))
