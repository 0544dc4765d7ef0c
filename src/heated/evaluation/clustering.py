"""k-means engines, and metrics of how well clusters (N,) match classes (N,): 1 is perfect."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.special import gammaln
from threadpoolctl import threadpool_limits
from torch import Generator, Tensor
from torch.linalg import vecdot

from heated.common.errors import InputError
from heated.evaluation.candidate_filter import (
    CandidateFilter,
    ProductBlock,
    map_pairs,
    round_vectors,
    rounding_bound,
)
from heated.evaluation.threads import map_in_threads
from heated.runtime.device import fast_dtype, float32_products
from heated.runtime.distributed import all_reduce_sum, local_shard

Labels = NDArray[np.int64]
Counts = NDArray[np.float64]


CLUSTERS_AT_ONCE = 128  # whose samples are summed in one piece, which stays in a CPU's cache
EXTRA_COLUMNS = 8  # three for |c|^2 / 2; the rest keeps the width even


@dataclass(frozen=True)
class Clusters:
    """A clustering of N samples."""

    labels: Tensor  # (N,) int64
    objective: float  # the mean squared distance to the cluster's center
    iterations: int
    converged: bool  # whether the last iteration moved no sample


@float32_products()  # the error bounds need float32 sums
def lloyd(
    unit: Tensor,
    num_clusters: int,
    *,
    iterations: int,
    generator: Generator,
    memory_mib: int = 128,
    dtype: torch.dtype | None = None,
) -> Clusters:
    """Cluster (N, D) float64 of length 1, starting from distinct random samples as centers.

    A cluster that loses its last sample restarts at the sample farthest from its center. Neither
    `memory_mib`, for what grows with N x clusters, nor the `dtype` of the low-precision products
    affects results. Raises InputError if there are more clusters than samples.
    """
    if num_clusters > len(unit):
        raise InputError(
            f"k-means: got {num_clusters} clusters, expected at most {len(unit)}, one per sample"
        )
    first = torch.randperm(len(unit), generator=generator)[:num_clusters]
    centers = unit[first.to(unit.device)]
    dtype = dtype or fast_dtype(unit.device)
    gallery = with_half_norms(centers, dtype)
    products = CandidateFilter(gallery, dtype, num_queries=len(unit), memory_mib=memory_mib)
    values, error = round_vectors(unit, dtype)  # with ones for the columns of `with_half_norms`
    rounded = F.pad(F.pad(values, (0, 3), value=1), (0, EXTRA_COLUMNS - 3)), error
    labels = assign(unit, rounded, centers, products)
    iteration, converged = 0, False
    while iteration < iterations and not converged:
        centers = update_centers(unit, labels, centers)
        previous, labels = labels, assign(unit, rounded, centers, products)
        iteration, converged = iteration + 1, torch.equal(previous, labels)
    objective = squared_distances(unit, centers, labels).mean().item()
    return Clusters(labels, objective, iteration, converged)


def with_half_norms(centers: Tensor, dtype: torch.dtype) -> Tensor:
    """Append -|c|^2 / 2 in three columns, each with the rounding error of the previous ones."""
    columns, remainder = [centers], -centers.square().sum(dim=1, keepdim=True) / 2
    for _ in range(3):
        columns.append(remainder.to(dtype).double())
        remainder = remainder - columns[-1]
    return F.pad(torch.cat(columns, dim=1), (0, EXTRA_COLUMNS - 3))


def assign(
    unit: Tensor, rounded: tuple[Tensor, Tensor], centers: Tensor, products: CandidateFilter
) -> Tensor:
    """Return (N,) int64, each sample's nearest center, the first one in a tie.

    It has the largest x.c - |c|^2 / 2. The processes of `torchrun` share the work.
    """
    low, error = rounded
    products.set_gallery(with_half_norms(centers, products.dtype))
    labels = torch.zeros(len(unit), dtype=torch.int64, device=unit.device)

    def assign_block(block: slice) -> None:
        screened = products.multiply(low[block], error[block])
        labels[block] = nearest_centers(unit[block], centers, screened, products.max_columns)

    map_in_threads(assign_block, local_shard(products.blocks), unit.device)
    return all_reduce_sum(labels)


def nearest_centers(unit: Tensor, centers: Tensor, block: ProductBlock, max_columns: int) -> Tensor:
    """Return (B,) int64, the nearest centers of a block of samples."""
    largest = block.maxima.amax(dim=1)
    least = largest.double() - rounding_bound(largest) - block.bound
    labels = torch.full_like(largest, len(centers), dtype=torch.int64)
    for row, column, _ in block.candidates(least, max_columns):
        doubt = torch.nonzero(torch.bincount(row)[row] > 1)[:, 0]
        distance = unit.new_zeros(len(row))  # (|x - c|^2 - |x|^2) / 2
        distance[doubt] = map_pairs(
            lambda x, c: vecdot(c, c) / 2 - vecdot(x, c), unit, centers, row[doubt], column[doubt]
        )
        minimum = unit.new_full((len(unit),), torch.inf)
        minimum.scatter_reduce_(0, row, distance, "amin")
        nearest = torch.nonzero(distance == minimum[row])[:, 0]
        labels.scatter_reduce_(0, row[nearest], column[nearest], "amin")
    return labels


def update_centers(unit: Tensor, labels: Tensor, centers: Tensor) -> Tensor:
    """Return (K, D), the mean of each cluster's samples, with the same bits on every device."""
    counts = torch.bincount(labels, minlength=len(centers))
    empty = torch.nonzero(counts == 0)[:, 0]
    if len(empty):
        distances = squared_distances(unit, centers, labels)
        farthest = distances.argsort(descending=True, stable=True)[: len(empty)]
        labels = labels.index_copy(0, farthest, empty[: len(farthest)])
        counts = torch.bincount(labels, minlength=len(centers))
    ends, order = F.pad(counts.cumsum(0), (1, 0)).tolist(), labels.argsort(stable=True)

    step = CLUSTERS_AT_ONCE if unit.device.type == "cpu" else len(counts)

    def sum_clusters(first: int) -> Tensor:
        sizes = counts[first : first + step]
        samples = order[ends[first] : ends[first + len(sizes)]]
        return torch.segment_reduce(unit[samples], "sum", lengths=sizes)

    pieces = map_in_threads(sum_clusters, range(0, len(counts), step), unit.device)
    sums = torch.cat(pieces)
    return torch.where(counts[:, None] > 0, sums / counts[:, None].clamp(min=1), centers)


def squared_distances(unit: Tensor, centers: Tensor, labels: Tensor) -> Tensor:
    """Return (N,) |x - c|^2 of each sample and the center of its cluster."""
    samples = torch.arange(len(unit), device=unit.device)
    return map_pairs(lambda x, c: (x - c).square().sum(dim=1), unit, centers, samples, labels)


def scikit_learn_kmeans(unit: Tensor, num_clusters: int, *, restarts: int, seed: int) -> Clusters:
    """Cluster (N, D) with scikit-learn, as the authors do (utils.py) with 10 restarts."""
    from sklearn.cluster import KMeans  # takes a second to import

    model = KMeans(num_clusters, n_init=restarts, random_state=seed)
    with threadpool_limits(torch.get_num_threads()):  # `setup_device` limits only loaded libraries
        labels = torch.from_numpy(model.fit_predict(unit.float().cpu().numpy()).astype(np.int64))
    converged = model.n_iter_ < model.max_iter
    return Clusters(labels, float(model.inertia_) / len(unit), int(model.n_iter_), converged)


def lloyd_kmeans(
    unit: Tensor, num_clusters: int, *, restarts: int, iterations: int, seed: int
) -> Clusters:
    """Cluster (N, D) float64 with `lloyd`, for tens of thousands of classes or a GPU."""
    generator = torch.Generator().manual_seed(seed)
    restart = partial(lloyd, unit, num_clusters, iterations=iterations, generator=generator)
    return min((restart() for _ in range(restarts)), key=lambda clusters: clusters.objective)


def nmi(classes: Labels, clusters: Labels, average: str) -> float:
    """Compute normalized mutual information I(Y; C) / mean(H(Y), H(C)) in [0, 1].

    `average` is the mean of the entropies: "geometric" as in scikit-learn 0.19, which the authors
    used, or "arithmetic" as in scikit-learn since version 0.22.

    >>> nmi(np.array([0, 0, 1, 1]), np.array([1, 1, 0, 0]), "geometric")
    1.0
    """
    from sklearn.metrics import normalized_mutual_info_score

    return float(normalized_mutual_info_score(classes, clusters, average_method=average))


def ami(classes: Labels, clusters: Labels) -> float:
    """Compute adjusted mutual information: 0 by chance, 1 at most (Vinh et al., 2010).

    AMI = (I - E[I]) / (mean(H(Y), H(C)) - E[I]), below 0 for less than chance. scikit-learn's
    version is equal but takes half a minute for 11,316 classes and clusters.

    >>> ami(np.array([0, 0, 1, 1]), np.array([1, 1, 0, 0]))
    1.0
    >>> ami(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]))
    -0.5...
    """
    from sklearn.metrics import mutual_info_score
    from sklearn.metrics.cluster import contingency_matrix

    table = contingency_matrix(classes, clusters, sparse=True, dtype=np.float64)
    if table.shape == (table.nnz, table.nnz):
        return 1.0  # the same partition, even if it is the only possible one
    by_class, by_cluster = (np.asarray(table.sum(axis=axis)).ravel() for axis in (1, 0))
    shares = (by_class / len(classes), by_cluster / len(classes))
    mean_entropy = sum(float(-(p * np.log(p)).sum()) for p in shares) / 2
    information = mutual_info_score(None, None, contingency=table)
    expected = expected_information(by_class, by_cluster)
    return float((information - expected) / max(mean_entropy - expected, np.finfo(float).eps))


def expected_information(by_class: Counts, by_cluster: Counts) -> float:
    """Compute the mean mutual information of random partitions with these class sizes."""
    size, total = by_class.sum(), 0.0
    for a, classes in zip(*np.unique(by_class, return_counts=True), strict=True):
        for b, clusters in zip(*np.unique(by_cluster, return_counts=True), strict=True):
            both = np.arange(max(1, a + b - size), min(a, b) + 1)
            ways = log_binomial(a, both) + log_binomial(size - a, b - both) - log_binomial(size, b)
            terms = np.exp(ways) * both / size * np.log(size * both / (a * b))
            total += classes * clusters * terms.sum()
    return float(total)


def log_binomial(n: Any, k: Any) -> Any:
    """Return the logarithm of the binomial coefficient n over k."""
    return gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)


def f1(classes: Labels, clusters: Labels) -> float:
    """Compute 2 P R / (P + R) in [0, 1], 0 if no pair is in one cluster and one class.

    Precision P is the share of pairs in one cluster that are in one class, recall R the reverse.

    >>> f1(np.array([0, 0, 1, 1]), np.array([0, 0, 0, 0]))
    0.5
    """
    from sklearn.metrics.cluster import pair_confusion_matrix

    (_, in_cluster), (in_class, in_both) = pair_confusion_matrix(classes, clusters)
    return float(2 * in_both / max(2 * in_both + in_class + in_cluster, 1))


KMEANS: dict[str, Callable[..., Clusters]] = {
    "scikit-learn": scikit_learn_kmeans,
    "lloyd": lloyd_kmeans,
}
CLUSTERING: dict[str, Callable[[Labels, Labels], float]] = {
    "nmi_geometric": partial(nmi, average="geometric"),
    "nmi_arithmetic": partial(nmi, average="arithmetic"),
    "ami": ami,
    "f1": f1,
}
