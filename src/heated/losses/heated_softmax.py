"""The heated softmax: softmax(alpha z) over cosine logits, alpha = 1 / temperature.

Beside the paper's LN and BN its options give what others published: NormFace (l2, no bias; Wang et
al., arXiv 1704.06369), also with alpha learned; L2-constrained softmax (Ranjan et al., 1703.09507);
AdaCos (Zhang et al., 1905.00292); Proxy-NCA (Movshovitz-Attias et al., 1703.07464).
"""

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heated.common.initializers import variance_scaling_
from heated.losses.adaptive_scale import ADAPTATIONS
from heated.losses.embedding_norm import NORMALISATIONS

BIASES = ("outside", "inside", "none")
DENOMINATORS = ("all", "others")


class HeatedSoftmax(nn.Module):
    """Cross entropy of softmax(alpha z), z = w^T f, over C classes and embeddings of D dimensions.

    normalise: "none" (alpha 1 is plain softmax), "l2" (LN), "l2_embeddings" or "batch" (BN), or a
    module of `heated.losses.embedding_norm`, which says whether class weights have unit length.
    unit_weights: whether class weights have unit length, where this differs from what `normalise`
    says: "none" with True is for embeddings that come normalized.
    bias: "outside" adds it after alpha, as the authors' code does; "inside" is eq. 1 of the paper,
    alpha (z + b); "none" has no bias.
    alpha: set it at any time (`head.alpha = 4.0`); it is a tensor, so nothing is built anew.
    adaptation: "none"; "learned" makes alpha a parameter, of which the logarithm is learned, and
    "adacos" sets it in every training step (see `heated.adaptation`).
    label_smoothing: share of the target spread over all classes.
    denominator: of the softmax: "all" classes, or the "others" than the label's, as in Proxy-NCA
    (its squared distances of unit vectors are 2 - 2 z, so that alpha is 2 there).

    Weights: normal cut off at two deviations, variance 1 / D; bias 0 (the authors' layers.py).
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
            raise ValueError(
                "label_smoothing: came a share of all classes; allowed: 0 against others"
            )
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
        """Mean loss of a batch: embeddings (N, D) float, labels (N,) int64 in [0, C)."""
        return self.outcome(embeddings, labels)[0]

    def outcome(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean loss of a batch, and how many logits are largest at their label. A batch of none has
        a loss of 0, on which all weights bear."""
        z = self.similarities(embeddings)
        if not len(labels):
            return self.scaled(z).sum() * 0, labels.sum()
        self.adaptation.adapt(self, z, labels)
        logits = self.scaled(z)
        return self.loss(logits, labels), (logits.detach().argmax(dim=1) == labels).sum()

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean cross entropy of logits (N, C), with the labels smoothed as set."""
        if self.denominator == "all":
            return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        own = labels[:, None]
        others = logits.scatter(1, own, -math.inf).logsumexp(dim=1)
        return (others - logits.gather(1, own)[:, 0]).mean()

    def logits(self, embeddings: Tensor) -> Tensor:
        """(N, C): alpha z + b, alpha (z + b) or alpha z, by the place of the bias."""
        return self.scaled(self.similarities(embeddings))

    def similarities(self, embeddings: Tensor) -> Tensor:
        """z (N, C): the products of normalised embeddings with the classes' weights."""
        weight = F.normalize(self.weight, dim=1) if self.unit_weights else self.weight
        z: Tensor = self.normalise(embeddings) @ weight.T
        return z

    def scaled(self, z: Tensor) -> Tensor:
        """(N, C) logits of z."""
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


def one_of(option: str, came: str, allowed: Iterable[str]) -> None:
    """ValueError unless the option's value is one of those allowed."""
    if came not in allowed:
        raise ValueError(f"{option}: came {came!r}; allowed: {', '.join(allowed)}")
