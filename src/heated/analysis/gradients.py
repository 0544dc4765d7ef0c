"""The length of a sample's gradient dl/df against alpha, in closed form (paper, eqs. 2 and 3).

f is the normalised embedding, as the classifier sees it. Weights, bias and embeddings are a trained
model's; only alpha varies, and the model's own alpha does not matter.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from heated.common.errors import InputError
from heated.losses.heated_softmax import HeatedSoftmax

ENTRIES = 2**22  # logits at a time, 32 MiB of float64; the result does not depend on it


def gradient_norms(
    head: HeatedSoftmax, normalised: Tensor, labels: Tensor, alphas: Sequence[float]
) -> Tensor:
    """Return (N, A) float64, alpha ||sum_m (p_m - q_m) w_m|| of each sample alone, at each alpha.

    normalised: (N, D); labels: (N,) int64 in [0, C). p is the softmax, q the labels and w the
    weights, with the head's bias, label smoothing and unit lengths. Raises InputError for an alpha
    that is not finite and above 0, and for labels or dimensions that are not the head's.
    """
    if not all(0 < alpha < float("inf") for alpha in alphas):
        raise InputError(f"alphas: came {list(alphas)}; allowed: finite numbers above 0")
    bias = 0 if head.bias is None or head.bias_inside else head.bias.detach().double()
    norms = [
        [alpha * pulls(head, (alpha * scores + bias).softmax(dim=1), classes) for alpha in alphas]
        for scores, classes in blocks(head, normalised, labels)
    ]
    return torch.cat([torch.stack(each, dim=1) for each in norms])


def final_slopes(head: HeatedSoftmax, normalised: Tensor, labels: Tensor) -> Tensor:
    """Return (N,) float64, the limit of the gradient's norm / alpha as alpha grows and p is all on
    the class of the largest score: ||w_max - w_y|| of a misclassified sample, 0 of a correct one.
    With smoothed labels w_y becomes (1 - s) w_y + s mean(w), so that it is above 0 of both."""
    slopes = []
    for scores, own in blocks(head, normalised, labels):
        certain = F.one_hot(scores.argmax(dim=1), len(head.weight)).double()
        slopes.append(pulls(head, certain, own))
    return torch.cat(slopes)


def pulls(head: HeatedSoftmax, probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return (N,), ||sum_m (p_m - q_m) w_m|| of probabilities (N, C) float64."""
    own = labels[:, None]
    errors = (probabilities - head.label_smoothing / len(head.weight)).scatter_(1, own, 0)
    # they sum to 0: so the label's keeps its digits where its probability is nearly 1
    errors.scatter_(1, own, -errors.sum(dim=1, keepdim=True))
    return (errors @ weights(head)).norm(dim=1)


def weights(head: HeatedSoftmax) -> Tensor:
    """Return (C, D) float64, class weights as they meet the normalised embedding."""
    raw = head.weight.detach().double()
    return F.normalize(raw, dim=1) if head.unit_weights else raw


def margins(head: HeatedSoftmax, normalised: Tensor, labels: Tensor) -> Tensor:
    """Return (N,) float64, a sample's score of its own class less the best other score: above 0 it
    is classified correctly. The scores are what alpha multiplies, so that it depends on no alpha.
    """
    found = []
    for scores, own in blocks(head, normalised, labels):
        right = scores.gather(1, own[:, None])[:, 0]
        found.append(right - scores.scatter_(1, own[:, None], -torch.inf).amax(dim=1))
    return torch.cat(found)


def blocks(
    head: HeatedSoftmax, normalised: Tensor, labels: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield a few samples at a time, at least once: (B, C) float64 scores, which alpha multiplies
    (z, or z + b with the bias inside), and (B,) labels."""
    classes, dim = head.weight.shape
    outside = int(((labels < 0) | (labels >= classes)).sum())
    if normalised.shape != (*labels.shape, dim) or outside:
        raise InputError(
            f"came embeddings {tuple(normalised.shape)} and labels {tuple(labels.shape)}, of which "
            f"{outside} out of range; allowed: (N, {dim}) and (N,) in [0, {classes}), of what the "
            "model was trained on"
        )
    bias = head.bias.detach().double() if head.bias is not None and head.bias_inside else 0
    size = max(1, ENTRIES // classes)
    for embeddings, own in zip(normalised.split(size), labels.split(size), strict=True):
        yield embeddings.double() @ weights(head).T + bias, own
