"""k-means over unit-length embeddings, and how well its clusters (N,) match the classes (N,): a
float in [0, 1] per metric, higher is better."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import gammaln
from sklearn.cluster import KMeans
from sklearn.metrics import mutual_info_score, normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix, pair_confusion_matrix
from torch import Tensor

from heated.evaluation.kmeans import Clusters, lloyd

Labels = NDArray[np.int64]


def scikit_learn(unit: Tensor, clusters: int, *, restarts: int, seed: int) -> Clusters:
    """Cluster (N, D) float64 by scikit-learn in float32: k-means++ starts, the best of `restarts`
    by inertia. The authors' protocol, with 10 restarts (utils.py)."""
    model = KMeans(clusters, n_init=restarts, random_state=seed)
    labels = torch.from_numpy(model.fit_predict(unit.float().cpu().numpy()).astype(np.int64))
    converged = model.n_iter_ < model.max_iter
    return Clusters(labels, float(model.inertia_) / len(unit), int(model.n_iter_), converged)


def exact_lloyd(
    unit: Tensor, clusters: int, *, restarts: int, iterations: int, seed: int
) -> Clusters:
    """Cluster (N, D) float64 by `lloyd`: random samples as starts, the best of `restarts` by
    objective. For what scikit-learn is too slow for: tens of thousands of classes, or a GPU."""
    generator = torch.Generator().manual_seed(seed)
    again = partial(lloyd, unit, clusters, iterations=iterations, generator=generator)
    return min((again() for _ in range(restarts)), key=lambda found: found.objective)


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
    """NMI less what chance gives (arithmetic mean; Vinh et al., 2010), at least 0. scikit-learn's,
    which walks through all pairs of a class and a cluster, takes half a minute for 11,316 of each.

    >>> ami(np.array([0, 0, 1, 1]), np.array([1, 1, 0, 0]))
    1.0
    """
    table = contingency_matrix(classes, clusters, sparse=True, dtype=np.float64)
    if table.shape == (table.nnz, table.nnz):
        return 1.0  # the same partition, also where chance could not give another
    by_class, by_cluster = (np.asarray(table.sum(axis=axis)).ravel() for axis in (1, 0))
    shared = mutual_info_score(None, None, contingency=table)
    chance = information_by_chance(by_class, by_cluster)
    most = (entropy(by_class) + entropy(by_cluster)) / 2
    return float(np.clip((shared - chance) / max(most - chance, np.finfo(float).eps), 0, 1))


def entropy(counts: NDArray[np.float64]) -> float:
    """-sum p log p of the counts' shares."""
    shares = counts / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def information_by_chance(by_class: NDArray[np.float64], by_cluster: NDArray[np.float64]) -> float:
    """Mean mutual information of two partitions with these sizes; each pair of sizes once."""
    size, total = by_class.sum(), 0.0
    for a, classes in zip(*np.unique(by_class, return_counts=True), strict=True):
        for b, clusters in zip(*np.unique(by_cluster, return_counts=True), strict=True):
            both = np.arange(max(1, a + b - size), min(a, b) + 1)
            ways = log_binomial(a, both) + log_binomial(size - a, b - both) - log_binomial(size, b)
            terms = np.exp(ways) * both / size * np.log(size * both / (a * b))
            total += classes * clusters * terms.sum()
    return float(total)


def log_binomial(n: Any, k: Any) -> Any:
    """log(n over k)."""
    return gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)


def f1(classes: Labels, clusters: Labels) -> float:
    """2 P R / (P + R) over pairs: P of those in one cluster are in one class, R the other way; 0
    where no pair is in one cluster and one class.

    >>> f1(np.array([0, 0, 1, 1]), np.array([0, 0, 0, 0]))
    0.5
    """
    (_, in_cluster), (in_class, in_both) = pair_confusion_matrix(classes, clusters)
    return float(2 * in_both / max(2 * in_both + in_class + in_cluster, 1))


KMEANS: dict[str, Callable[..., Clusters]] = {"scikit-learn": scikit_learn, "lloyd": exact_lloyd}
CLUSTERING: dict[str, Callable[[Labels, Labels], float]] = {
    "nmi_geometric": nmi_geometric,
    "nmi_arithmetic": nmi_arithmetic,
    "ami": ami,
    "f1": f1,
}
