"""The heated softmax loss (Zhang et al., Heated-Up Softmax Embedding, arXiv 1809.04157).

Training starts at a large alpha = 1 / temperature and lowers it, which "heats up" the softmax.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heated.common.errors import check_choice
from heated.common.geometry import unit_rows, variance_scaling_
from heated.losses.embedding_norm import NORMALIZATIONS

BIASES = ("outside", "inside", "none")
DENOMINATORS = ("all", "negatives_only")
REDUCTIONS = ("mean", "sum", "none")
Pairs = Sequence[Tensor]  # of a miner: (anchors, positives, negatives), or pairs of both kinds


class HeatedSoftmax(nn.Module):
    """Cross entropy of softmax(alpha z) over C classes, with an alpha that may change in training.

    The loss is the mean over the batch of

        -log(exp(alpha z_y + b_y) / sum_c exp(alpha z_c + b_c)), z_c = w_c^T f

    f is the normalized embedding, y the label; w_c and b_c are the weights and bias of class c.

    It runs in the dtype of its weights, in an autocast region too.

    Shape:
        Embeddings: (N, D) float, before normalization. Labels: (N,) integers in [0, C), or (N, C)
        probabilities. Loss: (), or (N,) with the reduction "none".

    Args:
        num_classes: C.
        embedding_dim: D.
        normalize: "none" (with alpha 1: plain softmax), "l2" (LN in the paper), "batch" (BN),
            "l2_embeddings" (L2 with free class weights: L2-constrained softmax, Ranjan et al.,
            arXiv 1703.09507), "layer" (layer norm, then L2: Zhai and Wu, arXiv 1811.12649), or a
            module of `heated.losses.embedding_norm`.
        unit_weights: Whether class weights are divided by their length. By default `normalize`
            decides. Set it if `normalize` is "none" because embeddings are normalized already.
        alpha: 1 / temperature, above 0, by default 16; "adacos" starts from its own. `loss.alpha`
            reads as a float. `loss.alpha = 4.0` takes effect from the next forward pass, at any
            time, and an adapted alpha starts from it. See also `AlphaScheduler`.
        temperature: 1 / alpha, in place of it; `loss.temperature` reads and sets it.
        bias: "outside" gives logits alpha z + b, as in the authors' code; "inside" gives
            alpha (z + b), eq. 1 of the paper; "none" has no b.
        label_smoothing: Share of the target that is spread over all classes, in [0, 1].
        denominator: Sum over "all" classes, or over "negatives_only", those other than y. With
            alpha 2 this is Proxy-NCA (Movshovitz-Attias et al., arXiv 1703.07464), as squared
            distances are 2 - 2 z.
        adaptation: "none"; "learned" trains alpha (NormFace, Wang et al., arXiv 1704.06369);
            "adacos" sets it in every training step (Zhang et al., arXiv 1905.00292).
        weight: (C,) of each class, as in torch's cross_entropy; the buffer `class_weight`.
        reduction: "mean", "sum" or "none", as in torch's cross_entropy.
    """

    _alpha: Tensor
    class_weight: Tensor | None

    def __init__(
        self,
        num_classes: int,
        embedding_dim: int,
        *,
        normalize: str | nn.Module = "batch",
        unit_weights: bool | None = None,
        alpha: float | None = None,
        temperature: float | None = None,
        bias: str = "outside",
        label_smoothing: float = 0.0,
        denominator: str = "all",
        adaptation: str = "none",
        weight: Tensor | Sequence[float] | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        check_choice("bias", bias, BIASES)
        check_choice("denominator", denominator, DENOMINATORS)
        check_choice("adaptation", adaptation, ADAPTATIONS)
        check_choice("reduction", reduction, REDUCTIONS)
        if label_smoothing and denominator == "negatives_only":
            expected = "expected 0 with 'negatives_only'"
            raise ValueError(f"label_smoothing: got {label_smoothing}, {expected}")
        if isinstance(normalize, str):
            check_choice("normalize", normalize, NORMALIZATIONS)
            normalize = NORMALIZATIONS[normalize](embedding_dim)
        self.normalization = normalize
        self.unit_weights = bool(normalize.unit_weights) if unit_weights is None else unit_weights
        classifier = torch.empty(num_classes, embedding_dim)  # as in the authors' layers.py
        self.weight = nn.Parameter(variance_scaling_(classifier, scale=1))
        self.bias = nn.Parameter(torch.zeros(num_classes)) if bias != "none" else None
        self.bias_inside = bias == "inside"
        self.label_smoothing = label_smoothing
        self.denominator = denominator
        self.reduction = reduction
        self.adaptation = ADAPTATIONS[adaptation](num_classes)
        self.register_buffer("class_weight", class_weights(weight, num_classes))
        self.register_buffer("_alpha", torch.tensor(0.0))
        self._alpha.fill_(self.rounded_alpha(initial_alpha(alpha, temperature)))

    def extra_repr(self) -> str:
        """Return sizes, alpha and the options for `repr`."""
        num_classes, embedding_dim = self.weight.shape
        bias = "none" if self.bias is None else "inside" if self.bias_inside else "outside"
        return (
            f"num_classes={num_classes}, embedding_dim={embedding_dim}, alpha={self.alpha:g}, "
            f"unit_weights={self.unit_weights}, bias={bias!r}, "
            f"label_smoothing={self.label_smoothing}, denominator={self.denominator!r}, "
            f"weight={self.class_weight is not None}, reduction={self.reduction!r}"
        )

    @property
    def alpha(self) -> float:
        """1 / temperature, as the next forward pass uses it. Reading waits for the device."""
        return self.adaptation(self._alpha).item()

    @alpha.setter
    def alpha(self, value: float) -> None:
        with torch.no_grad():
            self.adaptation.set_alpha(self._alpha, self.rounded_alpha(value))

    @property
    def temperature(self) -> float:
        """1 / alpha."""
        return 1 / self.alpha

    @temperature.setter
    def temperature(self, value: float) -> None:
        self.alpha = initial_alpha(None, value)

    def rounded_alpha(self, value: float) -> float:
        """Round a number to the loss's dtype; raise ValueError if it is no alpha there."""
        dtype = self._alpha.dtype
        alpha = torch.tensor(float(value), dtype=dtype, device="cpu").item()
        if not 0 < alpha < math.inf:
            expected = f"expected a finite number above 0 in {dtype}"
            raise ValueError(f"alpha: got {value!r}, {expected}")
        return alpha

    def forward(
        self, embeddings: Tensor, labels: Tensor, indices_tuple: Pairs | None = None
    ) -> Tensor:
        """Compute the loss of a batch.

        `indices_tuple`: the output of a miner of pytorch-metric-learning. As in its classification
        losses, the loss of each sample is multiplied by how often it occurs there, relative to the
        most frequent one; without any pair, by 1.
        """
        return self.loss_and_correct(embeddings, labels, indices_tuple)[0]

    def loss_and_correct(
        self, embeddings: Tensor, labels: Tensor, indices_tuple: Pairs | None = None
    ) -> tuple[Tensor, Tensor]:
        """Compute the loss of a batch and its number of correctly classified samples.

        The loss of an empty batch is 0 and connected to all parameters.
        """
        z = self.similarities(embeddings)
        labels = self.checked_labels(labels, len(z))
        if not len(labels):
            nothing = self.scale(z).sum(dim=1) * 0
            return (nothing if self.reduction == "none" else nothing.sum()), labels.sum()
        self.adaptation.update(z, labels)
        logits = self.scale(z)
        classes = labels if labels.ndim == 1 else labels.argmax(dim=1)
        correct = (logits.detach().argmax(dim=1) == classes).sum()
        if indices_tuple is None:
            return self.cross_entropy(logits, labels, self.reduction), correct
        losses = self.cross_entropy(logits, labels, "none")
        losses = losses * pair_weights(indices_tuple, losses)
        if self.reduction == "none":
            return losses, correct
        is_weighted = self.class_weight is not None and labels.ndim == 1
        total = self.class_weight[labels].sum() if is_weighted else len(losses)  # type: ignore[index]
        return losses.sum() / (total if self.reduction == "mean" else 1), correct

    def cross_entropy(self, logits: Tensor, labels: Tensor, reduction: str) -> Tensor:
        """Compute cross entropy of logits (N, C), with weights of classes."""
        weight = self.class_weight
        if self.denominator == "all":
            smoothing = self.label_smoothing
            return F.cross_entropy(
                logits, labels, weight, label_smoothing=smoothing, reduction=reduction
            )
        log_sum = logits.scatter(1, labels[:, None], -math.inf).logsumexp(dim=1, keepdim=True)
        return F.nll_loss(logits - log_sum, labels, weight, reduction=reduction)

    def checked_labels(self, labels: Tensor, size: int) -> Tensor:
        """Return labels as int64, or as probabilities; raise ValueError if they do not fit."""
        num_classes, is_soft = len(self.weight), labels.is_floating_point()
        if labels.shape != ((size, num_classes) if is_soft else (size,)):
            got = f"{labels.dtype} of shape {tuple(labels.shape)}"
            expected = f"integers of shape ({size},), or probabilities ({size}, {num_classes})"
            raise ValueError(f"labels: got {got}, expected {expected}")
        if not is_soft:
            check_range(labels, num_classes)
            return labels.long()
        if self.denominator != "all" or isinstance(self.adaptation, AdaCos):
            problem = "labels: got probabilities, expected integers with 'adacos' and"
            raise ValueError(f"{problem} 'negatives_only'")
        return labels.to(self.weight.dtype)

    def logits(self, embeddings: Tensor) -> Tensor:
        """Compute the logits (N, C) of embeddings (N, D)."""
        return self.scale(self.similarities(embeddings))

    get_logits = logits  # as pytorch-metric-learning calls it

    def similarities(self, embeddings: Tensor) -> Tensor:
        """Compute z (N, C), the dot products of normalized embeddings and class weights."""
        embedding_dim = self.weight.shape[1]
        if embeddings.ndim != 2 or embeddings.shape[1] != embedding_dim:
            expected = f"expected (N, {embedding_dim})"
            raise ValueError(f"embeddings: got shape {tuple(embeddings.shape)}, {expected}")
        with torch.autocast(embeddings.device.type, enabled=False):
            weight = unit_rows(self.weight) if self.unit_weights else self.weight
            normalized: Tensor = self.normalization(embeddings.to(weight.dtype))
            return normalized @ weight.T

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


def initial_alpha(alpha: float | None, temperature: float | None) -> float:
    """Return alpha, 1 / temperature, or 16 without either; raise ValueError for both."""
    if temperature is None:
        return 16.0 if alpha is None else alpha
    if alpha is not None:
        problem = f"got {alpha} and temperature {temperature}, expected one of the two"
        raise ValueError(f"alpha: {problem}")
    if not 0 < temperature < math.inf:
        expected = "expected a finite number above 0"
        raise ValueError(f"temperature: got {temperature!r}, {expected}")
    return 1 / temperature


def class_weights(weight: Tensor | Sequence[float] | None, num_classes: int) -> Tensor | None:
    """Return a copy of the weights (C,); raise ValueError if they have another shape."""
    if weight is None:
        return None
    weights = torch.as_tensor(weight, dtype=torch.get_default_dtype()).detach().clone()
    if weights.shape != (num_classes,):
        raise ValueError(f"weight: got shape {tuple(weights.shape)}, expected ({num_classes},)")
    return weights


def check_range(labels: Tensor, num_classes: int) -> None:
    """Raise ValueError if labels are not in [0, C). A GPU raises it later, as nothing waits."""
    if torch.compiler.is_compiling() or not len(labels):
        return
    is_valid = ((labels >= 0) & (labels < num_classes)).all()
    expected = f"expected 0 to {num_classes - 1}"
    if labels.device.type != "cpu":
        torch._assert_async(is_valid, f"labels: {expected}")
    elif not is_valid:
        low, high = (value.item() for value in labels.aminmax())
        raise ValueError(f"labels: got {low} to {high}, {expected}")


def pair_weights(indices_tuple: Pairs, losses: Tensor) -> Tensor:
    """Return how often each sample (N,) occurs in the pairs, divided by the maximum; or 1."""
    indices = torch.cat([*indices_tuple])
    counts = torch.zeros_like(losses).index_add(0, indices, losses.new_ones(len(indices)))
    most = counts.max()
    return torch.where(most > 0, counts / most, 1)


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
