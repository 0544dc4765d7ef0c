"""Every metric of a set of embeddings by its name: retrieval, clustering and geometry."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from heated.clustering import CLUSTERING, KMEANS
from heated.errors import InputError
from heated.geometry import GEOMETRY
from heated.neighbours import same_class_ranks
from heated.retrieval import RETRIEVAL, recall_at


def evaluate(
    embeddings: Tensor,
    labels: Tensor,
    *,
    query: Tensor,
    gallery: Tensor,
    recall_ks: Sequence[int],
    kmeans: str,
    kmeans_options: dict[str, Any],
) -> dict[str, float]:
    """Every metric by name: retrieval of queries in the gallery, clustering and geometry of all.

    embeddings: (N, D), labels (N,) int64, query and gallery (N,) bool.
    InputError when a k of `recall_ks` is not smaller than the gallery.
    """
    size = int(gallery.sum())
    if max(recall_ks) >= size:
        raise InputError(f"recall at {max(recall_ks)}: the gallery has only {size} images")
    found = same_class_ranks(embeddings, labels, query=query, gallery=gallery)
    values = {f"recall_at_{k}": recall_at(found, k) for k in recall_ks}
    values |= {name: metric(found) for name, metric in RETRIEVAL.items()}

    unit = F.normalize(embeddings.double(), dim=1).cpu()
    classes = labels.cpu().numpy()
    clusters = KMEANS[kmeans](unit.float().numpy(), len(np.unique(classes)), **kmeans_options)
    values |= {name: metric(classes, clusters) for name, metric in CLUSTERING.items()}
    return values | {name: metric(unit, labels.cpu()) for name, metric in GEOMETRY.items()}
