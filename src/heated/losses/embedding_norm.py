"""Normalizations of an embedding before the classifier: none, unit length, or batch norm."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Normalization(nn.Module):
    """Map embeddings (N, D) to those that the classifier sees.

    This one changes nothing: SM and LS (paper section 3.1). `unit_weights` says whether class
    weights have unit length.
    """

    unit_weights = False

    def forward(self, embeddings: Tensor) -> Tensor:
        return embeddings

    def embedding(self, embeddings: Tensor) -> Tensor:
        """Return (N, D) whose directions to compare after training."""
        return embeddings


class L2(Normalization):
    """Divide each row by its length; unit class weights too: LN and HLN (paper section 3.3)."""

    unit_weights = True

    def forward(self, embeddings: Tensor) -> Tensor:
        return F.normalize(embeddings, dim=1)


class L2Embeddings(L2):
    """As `L2`, with free class weights: L2-constrained softmax (Ranjan et al., arXiv 1703.09507),
    whose radius is alpha."""

    unit_weights = False


class Batch(Normalization):
    """Batch norm with learned shift and no learned scale, divided by sqrt(D), so that a row's
    length is about 1; unit class weights: BN and HBN (paper section 3.3). `momentum` is the share
    of the new batch: 0.05 is the authors' decay of 0.95."""

    unit_weights = True

    def __init__(self, embedding_dim: int, *, momentum: float = 0.05, eps: float = 1e-3) -> None:
        super().__init__()
        self.standardise = nn.BatchNorm1d(embedding_dim, eps=eps, momentum=momentum, affine=False)
        self.shift = nn.Parameter(torch.zeros(embedding_dim))

    def forward(self, embeddings: Tensor) -> Tensor:
        standard: Tensor = self.standardise(embeddings)
        return (standard + self.shift) / embeddings.shape[1] ** 0.5

    def embedding(self, embeddings: Tensor) -> Tensor:
        return self.forward(embeddings)


NORMALISATIONS: dict[str, Callable[..., Normalization]] = {
    "none": lambda embedding_dim: Normalization(),
    "l2": lambda embedding_dim: L2(),
    "l2_embeddings": lambda embedding_dim: L2Embeddings(),
    "batch": Batch,
}
