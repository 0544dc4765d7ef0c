"""Geometry of classes in the embedding, and starting weights."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TRUNCATED_STD = 0.87962566103423978  # of a unit normal truncated at two standard deviations


def unit_rows(rows: Tensor) -> Tensor:
    """Return rows (N, D) of length 1 in the same dtype; rows of length 0 stay 0.

    torch's `normalize` adds 1e-12 to lengths, which is 0 in float16, and multiplies the gradient of
    a row of length 0 by 1e12. Lengths are computed in float32 at least, so that none overflows.

    >>> unit_rows(torch.tensor([[300.0, 400.0], [0.0, 0.0]]).half()).tolist()
    [[0.60009765625, 0.7998046875], [0.0, 0.0]]
    """
    dtype = torch.promote_types(rows.dtype, torch.float32)
    lengths = torch.linalg.vector_norm(rows, dim=1, keepdim=True, dtype=dtype)
    return (rows / lengths.masked_fill(lengths == 0, 1)).to(rows.dtype)


def l2_normalize(embeddings: Tensor) -> Tensor:
    """Return (N, D) float64 rows of length 1; rows of length 0 stay 0."""
    return unit_rows(embeddings.double())


def class_means(embeddings: Tensor, labels: Tensor) -> Tensor:
    """Return (C, D) float64 means of the embeddings (N, D), by increasing label of (N,)."""
    _, classes, counts = torch.unique(labels, return_inverse=True, return_counts=True)
    sums = embeddings.new_zeros(len(counts), embeddings.shape[1], dtype=torch.float64)
    # unlike index_add_, deterministic on a GPU
    sums.index_put_((classes,), embeddings.double(), accumulate=True)
    return sums / counts[:, None]


def intra_class_variance(means: Tensor) -> float:
    """Compute the circular variance 1 - |mean|, averaged over classes; lower is more compact.

    It is 0 if every class is a single point, and near 1 if classes have no direction.

    >>> intra_class_variance(torch.tensor([[1.0, 0.0], [0.0, 0.5]]))
    0.25

    Args:
        means: (C, D) the mean of each class's unit embeddings.
    """
    return (1 - means.norm(dim=1)).mean().clamp(0, 1).item()


def inter_class_distance(means: Tensor) -> float:
    """Compute (1 - cos) / 2 between mean directions, averaged over pairs of classes.

    It is 0 if all have one direction, and for a single class; 0.5 for right angles on average.

    >>> inter_class_distance(torch.tensor([[1.0, 0.0], [0.0, 0.5]]))
    0.5

    Args:
        means: (C, D) the mean of each class's unit embeddings.
    """
    directions, count = F.normalize(means, dim=1), len(means)
    if count == 1:
        return 0.0
    off_diagonal = directions.sum(dim=0).square().sum() - directions.square().sum()
    return ((1 - off_diagonal / (count * (count - 1))) / 2).clamp(0, 1).item()


def variance_scaling_(weight: Tensor, *, scale: float) -> Tensor:
    """Fill a weight (outputs, inputs, ...) in place like TensorFlow's variance scaling.

    The authors' code uses it: a normal with variance scale / fan-in, truncated at two standard
    deviations. Draws from torch's global generator.
    """
    std = (scale / weight[0].numel()) ** 0.5 / TRUNCATED_STD
    return nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)
