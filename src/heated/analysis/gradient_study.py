"""Gradient norms of a trained model's own samples against alpha, by kind of sample: near its
class's centroid, near the boundary of its class, misclassified."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from heated.analysis.gradients import final_slopes, gradient_norms, margins
from heated.common.geometry import class_means
from heated.data.batches import Held, Mapped
from heated.losses.heated_softmax import HeatedSoftmax
from heated.models.embedding import batch_size_for
from heated.models.embedding_model import Model

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
SHARE = 0.1  # of a class's correct samples: those near the centroid, and those near the boundary


def gradients_by_kind(
    model: Model, images: Held | Mapped, labels: Tensor, *, alphas: Sequence[float], samples: int
) -> dict[str, Any]:
    """Return {"alpha": the model's own, "alphas": ascending, "images": N, "counts": samples of each
    kind, "kinds": a `summary` of each that has samples}. Leaves the model in eval mode.

    Args:
        model: A trained model.
        images: The N images that it was trained on.
        labels: (N,) int64 in [0, num_classes), on the model's device.
        alphas: Values of alpha, in any order.
        samples: At most so many of a kind, evenly spaced over the images.
    """
    head, rising = model.head, sorted(alphas)
    assert isinstance(head, HeatedSoftmax)
    embeddings = normalised(model, images).double()
    ahead = margins(head, embeddings, labels)
    numbers = samples_by_kind(ahead, centroid_distances(embeddings, labels), labels)
    chosen = {kind: evenly(each, samples) for kind, each in numbers.items() if len(each)}
    return {
        "alpha": head.alpha.item(),
        "alphas": rising,
        "images": len(labels),
        "counts": {kind: len(each) for kind, each in numbers.items()},
        "kinds": {k: summary(head, embeddings[n], labels[n], rising) for k, n in chosen.items()},
    }


def summary(
    head: HeatedSoftmax, normalised: Tensor, labels: Tensor, alphas: Sequence[float]
) -> dict[str, Any]:
    """Return {"n": N, "quantiles": {"0.5": [a norm for each alpha], ..}} and medians over samples:
    "peak_norm" and "peak_alpha", a sample's largest norm and at which of `alphas` it is;
    "final_slope", see `final_slopes`. normalised: (N, D), labels: (N,) int64, N at least 1.
    """
    norms = gradient_norms(head, normalised, labels, alphas).cpu().numpy()
    slopes = final_slopes(head, normalised, labels).cpu().numpy()
    return {
        "n": len(norms),
        "quantiles": {str(q): np.quantile(norms, q, axis=0).tolist() for q in QUANTILES},
        "peak_alpha": float(np.median(np.array(alphas)[norms.argmax(axis=1)])),
        "peak_norm": float(np.median(norms.max(axis=1))),
        "final_slope": float(np.median(slopes)),
    }


def normalised(model: Model, images: Held | Mapped) -> Tensor:
    """Return (N, D) float32 as the classifier sees them; leaves the model in eval mode."""
    model.eval()
    pieces = torch.arange(len(images)).split(batch_size_for(model))
    with torch.inference_mode():
        prepared = map(model.prepare, images.batches(pieces))
        return torch.cat([model.normalization(model.network(each)) for each in prepared])


def centroid_distances(normalised: Tensor, labels: Tensor) -> Tensor:
    """Return (N,), each sample's distance to the mean of its class's normalised embeddings."""
    numbers = torch.unique(labels, return_inverse=True)[1]
    return (normalised - class_means(normalised, labels)[numbers]).norm(dim=1)


def evenly(numbers: Tensor, count: int) -> Tensor:
    """Return `count` of the numbers (N,), from first to last at equal steps, or all if fewer.

    >>> evenly(torch.tensor([2, 3, 5, 7, 11]), 3).tolist()
    [2, 5, 11]
    """
    places = np.linspace(0, len(numbers) - 1, min(count, len(numbers))).round()
    return numbers[torch.from_numpy(places).long().to(numbers.device)]


def least(values: Tensor, labels: Tensor) -> Tensor:
    """Return (M,) int64, the samples of least value: a SHARE of each class, at least one.

    >>> least(torch.tensor([0.3, 0.1, 0.2, 9.0]), torch.tensor([0, 0, 0, 5])).tolist()
    [1, 3]
    """
    order = values.argsort(stable=True)
    order = order[labels[order].argsort(stable=True)]  # class by class, each from its least
    own, counts = labels[order], labels.bincount()
    starts = counts.cumsum(0) - counts
    ranks = torch.arange(len(order), device=order.device) - starts[own]
    return order[ranks < SHARE * counts[own]].sort().values


def samples_by_kind(margins: Tensor, distances: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Return each kind's samples, (M,) int64, ascending: of each class's correct samples the tenth
    nearest to the centroid, and the tenth of the smallest margins; and all misclassified ones.

    A tenth and not the smallest margins of all, since the peak is at about 1.3 / margin or above:
    near a margin of 0 it is at any alpha. A margin of 0 counts as misclassified, since its gradient
    grows without bound too.
    """
    correct = (margins > 0).nonzero()[:, 0]
    return {
        "centroid": correct[least(distances[correct], labels[correct])],
        "boundary": correct[least(margins[correct], labels[correct])],
        "misclassified": (margins <= 0).nonzero()[:, 0],
    }
