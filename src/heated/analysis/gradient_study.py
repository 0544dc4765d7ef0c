"""The gradients of a trained model's own samples against alpha, by kind of sample: near its class's
centroid, near the boundary of its class, misclassified."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from heated.analysis.gradients import final_slopes, gradient_norms, margins
from heated.data.batches import Held, Mapped
from heated.evaluation.geometry import class_means
from heated.losses.heated_softmax import HeatedSoftmax
from heated.models.embedding import at_a_time
from heated.models.embedding_model import Model

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
SHARE = 0.1  # of a class's correct samples: those near the centroid, and those near the boundary


def gradients_by_kind(
    model: Model, images: Held | Mapped, labels: Tensor, *, alphas: Sequence[float], samples: int
) -> dict[str, Any]:
    """{"alpha": the model's own, "alphas": ascending, "images": N, "counts": how many there are of
    each of KINDS, "kinds": a `summary` of each}; a kind that counts 0 has none.

    images: the N that the model was trained on; labels: (N,) int64 in [0, num_classes), on its
    device. samples: of a kind, at most; of more, so many evenly over the images.
    Leaves the model in eval mode.
    """
    head, rising = model.head, sorted(alphas)
    assert isinstance(head, HeatedSoftmax)
    embeddings = normalised(model, images).double()
    ahead = margins(head, embeddings, labels)
    distances = centroid_distances(embeddings, labels)
    numbers = {kind: members(ahead, distances, labels) for kind, members in KINDS.items()}
    chosen = {kind: evenly(each, samples) for kind, each in numbers.items() if len(each)}
    return {
        "alpha": head.alpha.item(),
        "alphas": rising,
        "images": len(labels),
        "counts": {kind: len(each) for kind, each in numbers.items()},
        "kinds": {
            kind: summary(head, embeddings[each], labels[each], rising)
            for kind, each in chosen.items()
        },
    }


def summary(
    head: HeatedSoftmax, normalised: Tensor, labels: Tensor, alphas: Sequence[float]
) -> dict[str, Any]:
    """{"n": samples, "quantiles": {"0.5": [a norm for each alpha], ..}} and medians over samples:
    "peak_norm", "peak_alpha", a sample's largest norm and where among `alphas` it is, which is an
    end of them when it is not between them; "final_slope", see `final_slopes`.

    normalised: (N, D), labels: (N,) int64, N at least 1.
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
    """(N, D) float32: the embeddings as the classifier sees them, raw where nothing is normalised;
    leaves the model in eval mode."""
    model.eval()
    pieces = torch.arange(len(images)).split(at_a_time(model))
    with torch.inference_mode():
        parts = [
            model.normalization(model.network(model.prepare(pixels)))
            for pixels in images.batches(pieces)
        ]
    return torch.cat(parts)


def centroid_distances(normalised: Tensor, labels: Tensor) -> Tensor:
    """(N,): each sample's distance to the mean of its class's normalised embeddings."""
    numbers = torch.unique(labels, return_inverse=True)[1]
    return (normalised - class_means(normalised, labels)[numbers]).norm(dim=1)


def evenly(numbers: Tensor, count: int) -> Tensor:
    """`count` of the numbers (N,), from the first to the last at equal steps, or all if fewer.

    >>> evenly(torch.tensor([2, 3, 5, 7, 11]), 3).tolist()
    [2, 5, 11]
    """
    places = np.linspace(0, len(numbers) - 1, min(count, len(numbers))).round()
    return numbers[torch.from_numpy(places).long().to(numbers.device)]


def least(values: Tensor, labels: Tensor) -> Tensor:
    """(M,) int64 numbers of a SHARE of each class, at least one sample, with its least values.

    >>> least(torch.tensor([0.3, 0.1, 0.2, 9.0]), torch.tensor([0, 0, 0, 5])).tolist()
    [1, 3]
    """
    order = values.argsort(stable=True)
    order = order[labels[order].argsort(stable=True)]  # class by class, each from its least
    own, counts = labels[order], labels.bincount()
    starts = counts.cumsum(0) - counts
    ranks = torch.arange(len(order), device=order.device) - starts[own]
    return order[ranks < SHARE * counts[own]].sort().values


def centroid(margins: Tensor, distances: Tensor, labels: Tensor) -> Tensor:
    """Of each class's correctly classified samples the tenth nearest to the class's centroid."""
    correct = (margins > 0).nonzero()[:, 0]
    return correct[least(distances[correct], labels[correct])]


def boundary(margins: Tensor, distances: Tensor, labels: Tensor) -> Tensor:
    """Of each class's correctly classified samples the tenth of the smallest margins. A tenth and
    not the smallest of all: the peak is at about 1.3 / margin or above, so that those of a margin
    of nearly 0 peak at any alpha, the further the more images there are."""
    correct = (margins > 0).nonzero()[:, 0]
    return correct[least(margins[correct], labels[correct])]


def misclassified(margins: Tensor, distances: Tensor, labels: Tensor) -> Tensor:
    """All misclassified samples; one on the very boundary is among them, since its gradient grows
    without bound too."""
    return (margins <= 0).nonzero()[:, 0]


# (N,) margins, distances to the class's centroid, labels -> (M,) int64 numbers, ascending
KINDS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "centroid": centroid,
    "boundary": boundary,
    "misclassified": misclassified,
}
