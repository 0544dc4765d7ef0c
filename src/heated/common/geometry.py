"""How compact classes are and how far apart, by the directions of their embeddings."""

import torch
import torch.nn.functional as F
from torch import Tensor


def l2_normalize(embeddings: Tensor) -> Tensor:
    """Return (N, D) float64 of length 1; rows of length 0 stay 0.

    >>> l2_normalize(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.6, 0.8], [0.0, 0.0]]
    """
    lengths = embeddings.double().norm(dim=1, keepdim=True)
    return embeddings.double() / lengths.masked_fill_(lengths == 0, 1)


def class_means(embeddings: Tensor, labels: Tensor) -> Tensor:
    """Return (C, D) float64, the mean of the embeddings (N, D) of each of the C different labels
    (N,), in rising order."""
    _, classes, counts = torch.unique(labels, return_inverse=True, return_counts=True)
    sums = embeddings.new_zeros(len(counts), embeddings.shape[1], dtype=torch.float64)
    # unlike index_add_, the same bits each time on a GPU too
    sums.index_put_((classes,), embeddings.double(), accumulate=True)
    return sums / counts[:, None]


def compactness(means: Tensor) -> float:
    """Compute the mean over classes of 1 - |mean|, the circular variance: 0 when every class is a
    single point, toward 1 when classes have no direction. **Lower is more compact.**

    >>> compactness(torch.tensor([[1.0, 0.0], [0.0, 0.5]]))
    0.25

    Args:
        means: (C, D) the mean of each class's unit embeddings.
    """
    return (1 - means.norm(dim=1)).mean().clamp(0, 1).item()


def spread(means: Tensor) -> float:
    """Compute the mean over pairs of classes of (1 - cos) / 2 between their mean directions: 0 when
    all point the same way, and for a single class; 0.5 for right angles on average.

    >>> spread(torch.tensor([[1.0, 0.0], [0.0, 0.5]]))
    0.5

    Args:
        means: (C, D) the mean of each class's unit embeddings.
    """
    directions, count = F.normalize(means, dim=1), len(means)
    if count == 1:
        return 0.0
    off_diagonal = directions.sum(dim=0).square().sum() - directions.square().sum()
    return ((1 - off_diagonal / (count * (count - 1))) / 2).clamp(0, 1).item()
