"""The heated softmax: softmax(alpha z) over cosine logits, alpha = 1 / temperature.

In addition to the paper's LN and BN, its options give published losses: NormFace (l2, no bias;
Wang et al., arXiv 1704.06369), also with alpha learned; L2-constrained softmax (Ranjan et al.,
1703.09507); AdaCos (Zhang et al., 1905.00292); Proxy-NCA (Movshovitz-Attias et al., 1703.07464).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heated.common.errors import one_of
from heated.common.initializers import variance_scaling_
from heated.losses.adaptive_scale import ADAPTATIONS
from heated.losses.embedding_norm import NORMALISATIONS

BIASES = ("outside", "inside", "none")
DENOMINATORS = ("all", "others")


class HeatedSoftmax(nn.Module):
    """Cross entropy of softmax(alpha z), z = w^T f, over C classes and embeddings of D dimensions.

    Weights start from a normal cut off at two deviations, variance 1 / D; bias at 0 (the authors'
    layers.py).

    Args:
        num_classes: C.
        embedding_dim: D.
        normalise: "none" (with alpha 1, plain softmax), "l2" (LN), "l2_embeddings", "batch" (BN),
            or a module of `heated.losses.embedding_norm`.
        unit_weights: Whether class weights have unit length, if not as `normalise` says: "none"
            with True is for embeddings that come normalized.
        alpha: 1 / temperature. Set it at any time (`head.alpha = 4.0`).
        bias: "outside" adds it after alpha, as the authors' code does; "inside" is eq. 1 of the
            paper, alpha (z + b); "none" has no bias.
        label_smoothing: Share of the target spread over all classes.
        denominator: Of the softmax: "all" classes, or the "others" than the label's, as in
            Proxy-NCA (its squared distances of unit vectors are 2 - 2 z, so alpha is 2 there).
        adaptation: "none"; "learned" makes alpha's logarithm a parameter; "adacos" sets alpha in
            every training step (see `heated.losses.adaptive_scale`).
    """

    _alpha: Tensor

    def __init__(
        self,
        num_classes: int,
        embedding_dim: int,
        *,
        normalise: str | nn.Module = "batch",
        unit_weights: bool | None = None,
        alpha: float = 16.0,
        bias: str = "outside",
        label_smoothing: float = 0.0,
        denominator: str = "all",
        adaptation: str = "none",
    ) -> None:
        super().__init__()
        one_of("bias", bias, BIASES)
        one_of("denominator", denominator, DENOMINATORS)
        one_of("adaptation", adaptation, ADAPTATIONS)
        if label_smoothing and denominator == "others":
            raise ValueError("label_smoothing: came a share of all classes; allowed: 0 of others")
        if isinstance(normalise, str):
            one_of("normalise", normalise, NORMALISATIONS)
            normalise = NORMALISATIONS[normalise](embedding_dim)
        self.normalise = normalise
        self.unit_weights = bool(normalise.unit_weights) if unit_weights is None else unit_weights
        self.weight = nn.Parameter(
            variance_scaling_(torch.empty(num_classes, embedding_dim), scale=1)
        )
        self.bias = nn.Parameter(torch.zeros(num_classes)) if bias != "none" else None
        self.bias_inside = bias == "inside"
        self.label_smoothing = label_smoothing
        self.denominator = denominator
        self.adaptation = ADAPTATIONS[adaptation](num_classes)
        self.register_buffer("_alpha", torch.empty(()))
        self.alpha = alpha

    @property
    def alpha(self) -> Tensor:
        """1 / temperature, a tensor without dimensions."""
        return self.adaptation.alpha(self._alpha)

    @alpha.setter
    def alpha(self, value: float) -> None:
        if not 0 < value < math.inf:
            raise ValueError(f"alpha: came {value!r}; allowed: a finite number above 0")
        self._alpha.fill_(value)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss of embeddings (N, D) float and labels (N,) int64 in [0, C)."""
        return self.outcome(embeddings, labels)[0]

    def outcome(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean loss, and how many logits are largest at their label. An empty batch has
        a loss of 0 that is connected to all parameters."""
        z = self.similarities(embeddings)
        if not len(labels):
            return self.scaled(z).sum() * 0, labels.sum()
        self.adaptation.adapt(self, z, labels)
        logits = self.scaled(z)
        return self.loss(logits, labels), (logits.detach().argmax(dim=1) == labels).sum()

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross entropy of logits (N, C)."""
        if self.denominator == "all":
            return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        own = labels[:, None]
        others = logits.scatter(1, own, -math.inf).logsumexp(dim=1)
        return (others - logits.gather(1, own)[:, 0]).mean()

    def logits(self, embeddings: Tensor) -> Tensor:
        """Return (N, C): alpha z + b, alpha (z + b) or alpha z, by the place of the bias."""
        return self.scaled(self.similarities(embeddings))

    def similarities(self, embeddings: Tensor) -> Tensor:
        """Return z (N, C), the products of normalized embeddings and class weights."""
        weight = F.normalize(self.weight, dim=1) if self.unit_weights else self.weight
        z: Tensor = self.normalise(embeddings) @ weight.T
        return z

    def scaled(self, z: Tensor) -> Tensor:
        """Return the logits (N, C) of z."""
        if self.bias is None:
            return self.alpha * z
        return self.alpha * (z + self.bias) if self.bias_inside else self.alpha * z + self.bias

    def embedding(self, embeddings: Tensor) -> Tensor:
        """Return (N, D) whose directions to compare after training: the network's output, under
        batch norm the normalized one, as in the authors' code. Call `eval()` first."""
        normalised: Tensor = self.normalise.embedding(embeddings)  # type: ignore[operator]
        return normalised
