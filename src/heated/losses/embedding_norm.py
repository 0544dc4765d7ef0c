"""What is done to an embedding before the classifier: nothing, unit length, or batch norm."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Normalization(nn.Module):
    """Base class of what is done to embeddings (N, D).

    `forward` returns what the classifier sees. `unit_weights` says whether the class weights then
    have unit length.
    """

    unit_weights: bool

    def embedding(self, embeddings: Tensor) -> Tensor:
        """Return (N, D) to compare after training, whose directions count."""
        normalized: Tensor = self(embeddings)
        return normalized


class Unnormalised(Normalization):
    """(N, D) as they came; class weights too. SM and LS (paper section 3.1)."""

    unit_weights = False

    def forward(self, embeddings: Tensor) -> Tensor:
        """(N, D)."""
        return embeddings


class L2(Normalization):
    """(N, D) of unit length; class weights too. LN and HLN (paper section 3.3)."""

    unit_weights = True

    def forward(self, embeddings: Tensor) -> Tensor:
        """(N, D), each row divided by its length."""
        return F.normalize(embeddings, dim=1)

    def embedding(self, embeddings: Tensor) -> Tensor:
        """(N, D) as they came: the length is kept for whoever wants it."""
        return embeddings


class L2Embeddings(L2):
    """As `L2`, and class weights as they come: L2-constrained softmax (Ranjan et al., arXiv
    1703.09507), whose radius is alpha."""

    unit_weights = False


class Batch(Normalization):
    """Batch norm with learned shift and no learned scale, divided by sqrt(D), so that a row's
    length is about 1; class weights of unit length. BN and HBN (paper section 3.3).

    momentum is the share of the new batch: 0.05 is the authors' decay of 0.95.
    """

    unit_weights = True

    def __init__(self, embedding_dim: int, *, momentum: float = 0.05, eps: float = 1e-3) -> None:
        super().__init__()
        self.standardise = nn.BatchNorm1d(embedding_dim, eps=eps, momentum=momentum, affine=False)
        self.shift = nn.Parameter(torch.zeros(embedding_dim))

    def forward(self, embeddings: Tensor) -> Tensor:
        """(N, D); N of 1 is refused while training, since it has no variance."""
        standard: Tensor = self.standardise(embeddings)
        return (standard + self.shift) / embeddings.shape[1] ** 0.5


NORMALISATIONS: dict[str, Callable[..., Normalization]] = {
    "none": lambda embedding_dim: Unnormalised(),
    "l2": lambda embedding_dim: L2(),
    "l2_embeddings": lambda embedding_dim: L2Embeddings(),
    "batch": Batch,
}
