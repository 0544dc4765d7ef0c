"""How tight classes are and how far apart, by the directions of their embeddings."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def directions(embeddings: Tensor) -> Tensor:
    """(N, D) float64: embeddings of length 1; one of length 0 stays as it is.

    >>> directions(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.6, 0.8], [0.0, 0.0]]
    """
    lengths = embeddings.double().norm(dim=1, keepdim=True)
    return embeddings.double() / lengths.masked_fill_(lengths == 0, 1)


def class_means(unit: Tensor, labels: Tensor) -> Tensor:
    """(C, D) mean of each class's unit embeddings; its length is their mean cosine to it."""
    _, numbers, counts = torch.unique(labels, return_inverse=True, return_counts=True)
    sums = unit.new_zeros(len(counts), unit.shape[1]).index_add_(0, numbers, unit)
    return sums / counts[:, None]


def compactness(unit: Tensor, labels: Tensor) -> float:
    """Mean over classes of 1 - cos between a sample and its class's mean direction: 0 when every
    class is a single point, towards 1 when classes have no direction. **Lower is more compact.**

    unit: (N, D) of length 1; labels: (N,). Known as the circular variance, 1 - |mean|.

    >>> compactness(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0, 1]))
    0.0
    """
    lengths = class_means(unit, labels).norm(dim=1)
    return (1 - lengths).mean().clamp(0, 1).item()


def spread(unit: Tensor, labels: Tensor) -> float:
    """Mean over pairs of classes of (1 - cos) / 2 between their mean directions: 0 when all point
    the same way, 0.5 when they are at right angles on average.

    unit: (N, D) of length 1; labels: (N,). 0 for a single class.

    >>> spread(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1]))
    0.5
    """
    means = F.normalize(class_means(unit, labels), dim=1)
    count = len(means)
    cosines = means.sum(dim=0).square().sum() - means.square().sum()  # off the diagonal
    return (
        ((1 - cosines / max(count * (count - 1), 1)) / 2).clamp(0, 1).item() if count > 1 else 0.0
    )


GEOMETRY: dict[str, Callable[[Tensor, Tensor], float]] = {
    "compactness": compactness,
    "spread": spread,
}
