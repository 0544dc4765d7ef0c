"""Compute gradient norms of a trained model's samples against alpha, by kind of sample.

The gradient dl/df is of the normalized embedding f that the classifier receives, in closed form
(paper, eqs. 2 and 3). Weights, bias and embeddings are the trained model's; only alpha varies.
"""

from collections.abc import Iterator, Sequence
from math import inf
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from heated.common.errors import InputError
from heated.common.geometry import class_means, unit_rows
from heated.data.packed_dataset import Images
from heated.losses.heated_softmax import HeatedSoftmax
from heated.models.embedding_model import ModelWithLoss, batch_size_for

MAX_LOGITS = 2**22  # at a time, 32 MiB of float64; the result does not depend on it
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
SHARE = 0.1  # of each class's correct samples, per kind


def gradients_by_kind(
    model: ModelWithLoss, images: Images, labels: Tensor, *, alphas: Sequence[float], samples: int
) -> dict[str, Any]:
    """Compute curves of gradient norms against alpha; leaves the model in eval mode.

    The model was trained on the N images; `labels` is (N,) int64 in [0, num_classes), on its
    device. Per kind, at most `samples` are used, evenly spaced over the images. Curves are
    quantiles per alpha. A sample's peak is its largest norm; peaks and slopes are medians.
    """
    head, alphas = model.head, sorted(alphas)
    assert isinstance(head, HeatedSoftmax)
    embeddings = normalized_embeddings(model, images).double()
    by_kind = samples_by_kind(embeddings, margins(head, embeddings, labels), labels)
    kinds = {}
    for kind, indices in by_kind.items():
        if not len(indices):
            continue
        chosen = evenly_spaced(indices, samples)
        given = (head, embeddings[chosen], labels[chosen])
        norms = gradient_norms(*given, alphas).cpu().numpy()
        kinds[kind] = {
            "n": len(norms),
            "quantiles": {str(q): np.quantile(norms, q, axis=0).tolist() for q in QUANTILES},
            "peak_alpha": float(np.median(np.array(alphas)[norms.argmax(axis=1)])),
            "peak_norm": float(np.median(norms.max(axis=1))),
            "final_slope": float(np.median(final_slopes(*given).cpu().numpy())),
        }
    return {
        "alpha": head.alpha,
        "alphas": alphas,
        "images": len(labels),
        "counts": {kind: len(indices) for kind, indices in by_kind.items()},
        "kinds": kinds,
    }


def normalized_embeddings(model: ModelWithLoss, images: Images) -> Tensor:
    """Return (N, D) float32 as the classifier receives them; leaves the model in eval mode."""
    model.eval()
    pieces = torch.arange(len(images)).split(batch_size_for(model))
    with torch.inference_mode():
        batches = map(model.prepare, images.iter_batches(pieces))
        return torch.cat([model.normalization(model.network(batch)) for batch in batches])


def samples_by_kind(embeddings: Tensor, margins: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Return the indices of samples of each kind, (M,) int64 in ascending order.

    Of each class's correct samples, "centroid" has the tenth nearest to the class's mean embedding,
    and "boundary" the tenth with the smallest margins. The smallest margins of all classes would
    not do: the peak is at about 1.3 / margin or above. A margin of 0 counts as misclassified, since
    its gradient grows without bound too.
    """
    classes = torch.unique(labels, return_inverse=True)[1]
    distances = (embeddings - class_means(embeddings, labels)[classes]).norm(dim=1)
    correct = (margins > 0).nonzero()[:, 0]
    return {
        "centroid": correct[lowest_per_class(distances[correct], labels[correct])],
        "boundary": correct[lowest_per_class(margins[correct], labels[correct])],
        "misclassified": (margins <= 0).nonzero()[:, 0],
    }


def lowest_per_class(values: Tensor, labels: Tensor) -> Tensor:
    """Return the indices of the lowest values: a SHARE of each class, at least one.

    >>> lowest_per_class(torch.tensor([0.3, 0.1, 0.2, 9.0]), torch.tensor([0, 0, 0, 5])).tolist()
    [1, 3]
    """
    order = values.argsort(stable=True)
    order = order[labels[order].argsort(stable=True)]  # class by class, ascending values
    classes, counts = labels[order], labels.bincount()
    starts = counts.cumsum(0) - counts
    ranks = torch.arange(len(order), device=order.device) - starts[classes]
    return order[ranks < SHARE * counts[classes]].sort().values


def evenly_spaced(indices: Tensor, count: int) -> Tensor:
    """Return `count` of the indices at equal steps, first and last included; all if fewer.

    >>> evenly_spaced(torch.tensor([2, 3, 5, 7, 11]), 3).tolist()
    [2, 5, 11]
    """
    places = np.linspace(0, len(indices) - 1, min(count, len(indices))).round()
    return indices[torch.from_numpy(places).long().to(indices.device)]


def gradient_norms(
    head: HeatedSoftmax, normalized: Tensor, labels: Tensor, alphas: Sequence[float]
) -> Tensor:
    """Return (N, A) float64, each sample's gradient norm alpha ||sum_m (p_m - q_m) w_m||.

    p is the softmax, q the (smoothed) label and w the weights. Raises InputError if an alpha, the
    labels or the dimensions are invalid.
    """
    if not all(0 < alpha < inf for alpha in alphas):
        raise InputError(f"alphas: got {list(alphas)}, expected finite numbers above 0")
    bias = 0 if head.bias is None or head.bias_inside else head.bias.detach().double()
    norms = [
        [a * error_norms(head, (a * scores + bias).softmax(dim=1), classes) for a in alphas]
        for scores, classes in iter_scores(head, normalized, labels)
    ]
    return torch.cat([torch.stack(each, dim=1) for each in norms])


def final_slopes(head: HeatedSoftmax, normalized: Tensor, labels: Tensor) -> Tensor:
    """Return (N,) float64, the limit of gradient norm / alpha as alpha grows.

    It is ||w_max - w_y|| for a misclassified sample and 0 for a correct one. Label smoothing s
    replaces w_y by (1 - s) w_y + s mean(w), so that the limit is above 0 for both.
    """
    slopes = []
    for scores, classes in iter_scores(head, normalized, labels):
        certain = F.one_hot(scores.argmax(dim=1), len(head.weight)).double()
        slopes.append(error_norms(head, certain, classes))
    return torch.cat(slopes)


def margins(head: HeatedSoftmax, normalized: Tensor, labels: Tensor) -> Tensor:
    """Return (N,) float64, the score of the sample's class minus the best other score."""
    pieces = []
    for scores, classes in iter_scores(head, normalized, labels):
        correct = scores.gather(1, classes[:, None])[:, 0]
        pieces.append(correct - scores.scatter_(1, classes[:, None], -inf).amax(dim=1))
    return torch.cat(pieces)


def error_norms(head: HeatedSoftmax, probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return (N,) ||sum_m (p_m - q_m) w_m|| of probabilities p (N, C) float64."""
    index = labels[:, None]
    errors = (probabilities - head.label_smoothing / len(head.weight)).scatter_(1, index, 0)
    # Errors sum to 0. The label's error keeps its digits even if its probability is nearly 1.
    errors.scatter_(1, index, -errors.sum(dim=1, keepdim=True))
    return (errors @ class_weights(head)).norm(dim=1)


def class_weights(head: HeatedSoftmax) -> Tensor:
    """Return (C, D) float64, of unit length if the head uses unit weights."""
    weight = head.weight.detach().double()
    return unit_rows(weight) if head.unit_weights else weight


def iter_scores(
    head: HeatedSoftmax, normalized: Tensor, labels: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield scores (B, C) float64, which alpha multiplies, and labels (B,), at least once."""
    classes, dim = head.weight.shape
    invalid = int(((labels < 0) | (labels >= classes)).sum())
    if normalized.shape != (*labels.shape, dim) or invalid:
        raise InputError(
            f"embeddings, labels: got {tuple(normalized.shape)} and {tuple(labels.shape)} with "
            f"{invalid} labels out of range, expected (N, {dim}) and (N,) in [0, {classes}). Pass "
            "the data set that the model was trained on."
        )
    bias = head.bias.detach().double() if head.bias is not None and head.bias_inside else 0
    size = max(1, MAX_LOGITS // classes)
    for embeddings, piece in zip(normalized.split(size), labels.split(size), strict=True):
        yield embeddings.double() @ class_weights(head).T + bias, piece
