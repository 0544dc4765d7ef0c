"""The heated softmax: softmax(alpha z) over cosine logits, alpha = 1 / temperature."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heated.initialisation import variance_scaling_
from heated.normalise import NORMALISATIONS

BIASES = ("outside", "inside", "none")


class HeatedSoftmax(nn.Module):
    """Cross entropy of softmax(alpha z), z = w^T f, over C classes and embeddings of D dimensions.

    normalise: "none" (alpha 1 is plain softmax), "l2" (LN) or "batch" (BN), or a module of
    `heated.normalise`; class weights have unit length in all but "none".
    bias: "outside" adds it after alpha, as the authors' code does; "inside" is eq. 1 of the paper,
    alpha (z + b); "none" has no bias.
    alpha: set it at any time (`head.alpha = 4.0`); it is a tensor, so nothing is built anew.
    label_smoothing: share of the target spread over all classes.

    Weights: normal cut off at two deviations, variance 1 / D; bias 0 (the authors' layers.py).
    """

    def __init__(
        self,
        num_classes: int,
        embedding_dim: int,
        *,
        normalise: str | nn.Module = "batch",
        alpha: float = 16.0,
        bias: str = "outside",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        if bias not in BIASES:
            raise ValueError(f"bias: came {bias!r}; allowed: {', '.join(BIASES)}")
        if isinstance(normalise, str):
            if normalise not in NORMALISATIONS:
                allowed = ", ".join(NORMALISATIONS)
                raise ValueError(f"normalise: came {normalise!r}; allowed: {allowed}")
            normalise = NORMALISATIONS[normalise](embedding_dim)
        self.normalise = normalise
        self.weight = nn.Parameter(
            variance_scaling_(torch.empty(num_classes, embedding_dim), scale=1)
        )
        self.bias = nn.Parameter(torch.zeros(num_classes)) if bias != "none" else None
        self.bias_inside = bias == "inside"
        self.label_smoothing = label_smoothing
        self.register_buffer("_alpha", torch.empty(()))
        self.alpha = alpha

    @property
    def alpha(self) -> Tensor:
        """1 / temperature, a tensor without dimensions."""
        alpha: Tensor = self._alpha  # type: ignore[assignment]
        return alpha

    @alpha.setter
    def alpha(self, value: float) -> None:
        if not 0 < value < math.inf:
            raise ValueError(f"alpha: came {value!r}; allowed: a finite number above 0")
        self.alpha.fill_(value)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Mean loss of a batch: embeddings (N, D) float, labels (N,) int64 in [0, C)."""
        return self.loss(self.logits(embeddings), labels)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean cross entropy of logits (N, C), with the labels smoothed as set."""
        return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)

    def logits(self, embeddings: Tensor) -> Tensor:
        """(N, C): alpha z + b, alpha (z + b) or alpha z, by the place of the bias."""
        weight = F.normalize(self.weight, dim=1) if self.normalise.unit_weights else self.weight
        z = self.normalise(embeddings) @ weight.T
        if self.bias is None:
            return self.alpha * z
        if self.bias_inside:
            return self.alpha * (z + self.bias)
        return self.alpha * z + self.bias

    def embedding(self, embeddings: Tensor) -> Tensor:
        """(N, D) to compare after training, whose directions count: a network's output, and under
        batch norm the normalised one, as in the authors' code. Call `eval()` first."""
        normalised: Tensor = self.normalise.embedding(embeddings)  # type: ignore[operator]
        return normalised
