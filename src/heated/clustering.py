"""k-means over unit-length embeddings, and what its clusters say of the classes: a float in [0, 1]
each, higher is better, from (N,) classes and (N,) clusters."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_mutual_info_score, normalized_mutual_info_score
from sklearn.metrics.cluster import pair_confusion_matrix

Labels = NDArray[np.int64]


def scikit_learn(unit: NDArray[np.float32], clusters: int, *, restarts: int, seed: int) -> Labels:
    """(N,) cluster numbers by scikit-learn: k-means++ starts, the best of `restarts` by inertia.
    The authors' protocol, with 10 restarts (utils.py)."""
    labels: NDArray[Any] = KMeans(clusters, n_init=restarts, random_state=seed).fit_predict(unit)
    return labels.astype(np.int64)


def nmi_geometric(classes: Labels, clusters: Labels) -> float:
    """I(Y; C) / sqrt(H(Y) H(C)): what scikit-learn 0.19, which the authors used, called NMI.

    >>> nmi_geometric(np.array([0, 0, 1, 1]), np.array([1, 1, 0, 0]))
    1.0
    """
    return float(normalized_mutual_info_score(classes, clusters, average_method="geometric"))


def nmi_arithmetic(classes: Labels, clusters: Labels) -> float:
    """2 I(Y; C) / (H(Y) + H(C)): what scikit-learn calls NMI since 0.22.

    >>> nmi_arithmetic(np.array([0, 0, 1, 1]), np.array([1, 1, 0, 0]))
    1.0
    """
    return float(normalized_mutual_info_score(classes, clusters, average_method="arithmetic"))


def ami(classes: Labels, clusters: Labels) -> float:
    """NMI less what chance gives (arithmetic mean), and 0 where it is less than chance.

    >>> ami(np.array([0, 0, 1, 1]), np.array([1, 1, 0, 0]))
    1.0
    """
    return max(0.0, float(adjusted_mutual_info_score(classes, clusters)))


def f1(classes: Labels, clusters: Labels) -> float:
    """2 P R / (P + R) over pairs: P of those in one cluster are in one class, R the other way.

    >>> f1(np.array([0, 0, 1, 1]), np.array([0, 0, 0, 0]))
    0.5
    """
    (_, apart), (split, together) = pair_confusion_matrix(classes, clusters)
    return float(2 * together / max(2 * together + apart + split, 1))


KMEANS: dict[str, Callable[..., Labels]] = {"scikit-learn": scikit_learn}
CLUSTERING: dict[str, Callable[[Labels, Labels], float]] = {
    "nmi_geometric": nmi_geometric,
    "nmi_arithmetic": nmi_arithmetic,
    "ami": ami,
    "f1": f1,
}
