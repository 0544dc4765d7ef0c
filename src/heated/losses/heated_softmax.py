"""The heated softmax loss (Zhang et al., Heated-Up Softmax Embedding, arXiv 1809.04157).

Training starts at a large alpha = 1 / temperature and lowers it, which "heats up" the softmax.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heated.common.errors import check_choice
from heated.common.geometry import unit_rows, variance_scaling_
from heated.losses.embedding_norm import NORMALIZATIONS

BIASES = ("outside", "inside", "none")
DENOMINATORS = ("all", "negatives_only")


class HeatedSoftmax(nn.Module):
    """Cross entropy of softmax(alpha z) over C classes, with an alpha that may change in training.

    The loss is the mean over the batch of

        -log(exp(alpha z_y + b_y) / sum_c exp(alpha z_c + b_c)), z_c = w_c^T f

    f is the normalized embedding, y the label; w_c and b_c are the weights and bias of class c.

    Shape:
        Embeddings: (N, D) float, before normalization. Labels: (N,) int64 in [0, C). Loss: ().

    Args:
        num_classes: C.
        embedding_dim: D.
        normalize: "none" (with alpha 1: plain softmax), "l2" (LN in the paper), "batch" (BN),
            "l2_embeddings" (L2 with free class weights: L2-constrained softmax, Ranjan et al.,
            arXiv 1703.09507), or a module of `heated.losses.embedding_norm`.
        unit_weights: Whether class weights are divided by their length. By default `normalize`
            decides. Set it if `normalize` is "none" because embeddings are normalized already.
        alpha: 1 / temperature, above 0; "adacos" starts from its own. `loss.alpha` reads as a
            float. `loss.alpha = 4.0` takes effect from the next forward pass, at any time, and
            an adapted alpha starts from it.
        bias: "outside" gives logits alpha z + b, as in the authors' code; "inside" gives
            alpha (z + b), eq. 1 of the paper; "none" has no b.
        label_smoothing: Share of the target that is spread over all classes, in [0, 1].
        denominator: Sum over "all" classes, or over "negatives_only", those other than y. With
            alpha 2 this is Proxy-NCA (Movshovitz-Attias et al., arXiv 1703.07464), as squared
            distances are 2 - 2 z.
        adaptation: "none"; "learned" trains alpha (NormFace, Wang et al., arXiv 1704.06369);
            "adacos" sets it in every training step (Zhang et al., arXiv 1905.00292).
    """

    _alpha: Tensor

    def __init__(
        self,
        num_classes: int,
        embedding_dim: int,
        *,
        normalize: str | nn.Module = "batch",
        unit_weights: bool | None = None,
        alpha: float = 16.0,
        bias: str = "outside",
        label_smoothing: float = 0.0,
        denominator: str = "all",
        adaptation: str = "none",
    ) -> None:
        super().__init__()
        check_choice("bias", bias, BIASES)
        check_choice("denominator", denominator, DENOMINATORS)
        check_choice("adaptation", adaptation, ADAPTATIONS)
        if label_smoothing and denominator == "negatives_only":
            expected = "expected 0 with 'negatives_only'"
            raise ValueError(f"label_smoothing: got {label_smoothing}, {expected}")
        if isinstance(normalize, str):
            check_choice("normalize", normalize, NORMALIZATIONS)
            normalize = NORMALIZATIONS[normalize](embedding_dim)
        self.normalization = normalize
        self.unit_weights = bool(normalize.unit_weights) if unit_weights is None else unit_weights
        weight = torch.empty(num_classes, embedding_dim)
        self.weight = nn.Parameter(variance_scaling_(weight, scale=1))  # as the authors' layers.py
        self.bias = nn.Parameter(torch.zeros(num_classes)) if bias != "none" else None
        self.bias_inside = bias == "inside"
        self.label_smoothing = label_smoothing
        self.denominator = denominator
        self.adaptation = ADAPTATIONS[adaptation](num_classes)
        self.register_buffer("_alpha", torch.tensor(0.0))
        self._alpha.fill_(self.rounded_alpha(alpha))

    @property
    def alpha(self) -> float:
        """1 / temperature, as the next forward pass uses it. Reading waits for the device."""
        return self.adaptation(self._alpha).item()

    @alpha.setter
    def alpha(self, value: float) -> None:
        with torch.no_grad():
            self.adaptation.set_alpha(self._alpha, self.rounded_alpha(value))

    def rounded_alpha(self, value: float) -> float:
        """Round a number to the loss's dtype; raise ValueError if it is no alpha there."""
        dtype = self._alpha.dtype
        alpha = torch.tensor(float(value), dtype=dtype, device="cpu").item()
        if not 0 < alpha < math.inf:
            expected = f"expected a finite number above 0 in {dtype}"
            raise ValueError(f"alpha: got {value!r}, {expected}")
        return alpha

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Compute the mean loss of a batch."""
        return self.loss_and_correct(embeddings, labels)[0]

    def loss_and_correct(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the mean loss of a batch and its number of correctly classified samples.

        The loss of an empty batch is 0 and connected to all parameters.
        """
        z = self.similarities(embeddings)
        if not len(labels):
            return self.scale(z).sum() * 0, labels.sum()
        self.adaptation.update(z, labels)
        logits = self.scale(z)
        correct = (logits.detach().argmax(dim=1) == labels).sum()
        if self.denominator == "all":
            return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing), correct
        target = labels[:, None]
        log_sum = logits.scatter(1, target, -math.inf).logsumexp(dim=1)
        return (log_sum - logits.gather(1, target)[:, 0]).mean(), correct

    def logits(self, embeddings: Tensor) -> Tensor:
        """Compute the logits (N, C) of embeddings (N, D)."""
        return self.scale(self.similarities(embeddings))

    def similarities(self, embeddings: Tensor) -> Tensor:
        """Compute z (N, C), the dot products of normalized embeddings and class weights."""
        weight = unit_rows(self.weight) if self.unit_weights else self.weight
        return self.normalization(embeddings) @ weight.T

    def scale(self, z: Tensor) -> Tensor:
        """Turn z (N, C) into logits."""
        alpha = self.adaptation(self._alpha)
        if self.bias is None:
            return alpha * z
        return alpha * (z + self.bias) if self.bias_inside else alpha * z + self.bias

    def embedding(self, embeddings: Tensor) -> Tensor:
        """Map network outputs (N, D) to the embeddings that retrieval compares by cosine.

        Only "batch" changes them, as in the authors' code. Call `eval()` first.
        """
        return self.normalization.embedding(embeddings)  # type: ignore[operator]


class FixedScale(nn.Module):
    """Alpha as the training loop sets it."""

    def forward(self, alpha: Tensor) -> Tensor:
        """Return the scale: a copy, which backward needs even if alpha is set before it runs."""
        return alpha.clone()

    def set_alpha(self, alpha: Tensor, value: float) -> None:
        """Change the state in place so that the scale is the value."""
        alpha.fill_(value)

    def update(self, z: Tensor, labels: Tensor) -> None:
        """Adapt to a batch of similarities z (N, C) and labels (N,)."""


class LearnableScale(FixedScale):
    """Alpha learned by gradient descent (NormFace, section 3.3).

    The parameter is log(alpha / alpha as set): alpha is positive and learns at a relative pace.
    """

    def __init__(self) -> None:
        super().__init__()
        self.exponent = nn.Parameter(torch.zeros(()))

    def forward(self, alpha: Tensor) -> Tensor:
        """Multiply alpha as set by the learned factor."""
        return alpha.clone() * self.exponent.exp()

    def set_alpha(self, alpha: Tensor, value: float) -> None:
        """Set alpha and forget the learned factor."""
        alpha.fill_(value)
        self.exponent.zero_()


class AdaCos(FixedScale):
    """Alpha from the angles of each training batch (AdaCos, eq. 12 and 15), for cosines z.

    alpha <- log(B) / cos(min(pi / 4, theta)), from sqrt(2) log(C - 1). B is the batch mean of
    sum_{c != y} exp(alpha z_c), theta the median of arccos(z_y).
    """

    current: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        if num_classes < 3:
            raise ValueError(f"adacos: got {num_classes} classes, expected at least 3")
        self.register_buffer("current", torch.tensor(math.sqrt(2) * math.log(num_classes - 1)))

    def forward(self, alpha: Tensor) -> Tensor:
        """Return a copy of the adapted scale."""
        return self.current.clone()

    def set_alpha(self, alpha: Tensor, value: float) -> None:
        """Set the scale from which the next batch adapts it."""
        self.current.fill_(value)

    @torch.no_grad()
    def update(self, z: Tensor, labels: Tensor) -> None:
        """Adapt in training mode, except if activation checkpointing repeats a forward pass."""
        if self.training and not is_recomputed():
            target = labels[:, None]
            log_sums = (self.current * z).scatter(1, target, -math.inf).logsumexp(dim=1)
            log_mean = log_sums.logsumexp(dim=0) - math.log(len(z))
            angle = z.gather(1, target).clamp(-1, 1).acos().median()
            self.current.copy_(log_mean / angle.clamp(max=math.pi / 4).cos())


def is_recomputed() -> bool:
    """Return whether backward runs this, to recompute activations that were not kept."""
    compiles = torch.compiler.is_compiling()  # torch.compile recomputes without Python
    return not compiles and torch._C._current_graph_task_id() != -1


ADAPTATIONS: dict[str, Callable[[int], FixedScale]] = {
    "none": lambda num_classes: FixedScale(),
    "learned": lambda num_classes: LearnableScale(),
    "adacos": AdaCos,
}
