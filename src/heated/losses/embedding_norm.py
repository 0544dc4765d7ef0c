"""Normalizations of embeddings before the classifier: none, unit length, batch or layer norm."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heated.common.geometry import unit_rows


class Normalization(nn.Module):
    """Identity: SM and LS in the paper (section 3.1)."""

    def __init__(self, *, unit_weights: bool = False) -> None:
        super().__init__()
        self.unit_weights = unit_weights  # whether to divide class weights by their length

    def forward(self, embeddings: Tensor) -> Tensor:
        """Map embeddings (N, D) to the input of the classifier (N, D)."""
        return embeddings

    def embedding(self, embeddings: Tensor) -> Tensor:
        """Map embeddings (N, D) to those that retrieval compares by cosine (N, D)."""
        return embeddings


class L2Normalization(Normalization):
    """Division by the length: LN and HLN in the paper (section 3.3) with unit class weights.

    With free ones: L2-constrained softmax (Ranjan et al., arXiv 1703.09507), of radius alpha.
    """

    def forward(self, embeddings: Tensor) -> Tensor:
        """Return unit vectors (N, D)."""
        return unit_rows(embeddings)


class BatchNormEmbedding(Normalization):
    """Batch norm with a learned shift and no scale, / sqrt(D): BN and HBN (paper section 3.3).

    The division makes lengths about 1. The default momentum is the authors' decay of 0.95.
    """

    def __init__(self, embedding_dim: int, *, momentum: float = 0.05, eps: float = 1e-3) -> None:
        super().__init__(unit_weights=True)
        self.standardize = nn.BatchNorm1d(embedding_dim, eps=eps, momentum=momentum, affine=False)
        self.shift = nn.Parameter(torch.zeros(embedding_dim))

    def forward(self, embeddings: Tensor) -> Tensor:
        """Normalize embeddings (N, D) by the batch, or by running statistics in eval mode."""
        return (self.standardize(embeddings) + self.shift) / embeddings.shape[1] ** 0.5

    embedding = forward


class LayerNormEmbedding(Normalization):
    """Layer norm without parameters, then division by the length (Zhai and Wu, 1811.12649).

    They normalize the features below the last linear layer, where it has one; here the embedding.
    """

    def forward(self, embeddings: Tensor) -> Tensor:
        """Return unit vectors (N, D) whose entries have the mean 0."""
        return unit_rows(F.layer_norm(embeddings, embeddings.shape[1:]))

    embedding = forward


NORMALIZATIONS: dict[str, Callable[..., Normalization]] = {
    "none": lambda embedding_dim: Normalization(),
    "l2": lambda embedding_dim: L2Normalization(unit_weights=True),
    "l2_embeddings": lambda embedding_dim: L2Normalization(),
    "batch": BatchNormEmbedding,
    "layer": lambda embedding_dim: LayerNormEmbedding(unit_weights=True),
}
