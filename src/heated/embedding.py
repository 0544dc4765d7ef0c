"""A trained model over many images: embeddings (N, D) float32, raw, not of unit length."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from heated.models import Model

BATCH = 512  # images at a time; the result does not depend on it


def embed(model: Model, images: NDArray[np.uint8] | Tensor, *, quiet: bool = False) -> Tensor:
    """(N, D) float32 on the model's device, from (N, H, W, C) uint8; leaves it in eval mode."""
    model.eval()
    device = model.head.weight.device
    starts = tqdm(range(0, len(images), BATCH), desc="embedding", disable=quiet or None)
    with torch.inference_mode():
        parts = [
            model(torch.as_tensor(images[start : start + BATCH]).to(device)).float()
            for start in starts
        ]
    return torch.cat(parts)
