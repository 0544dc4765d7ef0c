"""Measure a model on the unseen classes between epochs.

Recall@1 follows the rules of the final evaluation, with its queries and gallery. Similarities are
cosines in float64, rounded to multiples of 2^-32. A sample is not compared with itself. Ties count
against the query, and a query without another gallery sample of its class is a miss. An embedding
of length 0 has cosine 0 with all.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from heated.common import geometry
from heated.data.packed_dataset import Images
from heated.models.embedding_model import embed
from heated.runtime.device import float32_products
from heated.runtime.distributed import all_reduce_sum, local_shard
from heated.training.train_state import TrainState

GRID = 2.0**32  # cosines are compared as integer multiples of 1 / GRID
ENTRIES = 2**23  # cosines per block, 64 MiB of float64; the result does not depend on it


def make_monitor(
    state: TrainState, images: Images, labels: Tensor, *, query: Tensor, gallery: Tensor
) -> Callable[[], dict[str, float]]:
    """Return a function that computes Recall@1 and the geometry of unseen classes.

    `labels` is (N,) int64 in [0, C), every class present; `query` and `gallery` are (N,) bool, at
    least one sample in each. All are on the model's device. The function raises FloatingPointError
    if an embedding is not finite, and stores the angles of two-dimensional embeddings in
    `state.angles`.
    """

    def monitor() -> dict[str, float]:
        unit = geometry.l2_normalize(embed(state.model, images, quiet=True))
        if not unit.isfinite().all():
            raise FloatingPointError(
                "monitor: got embeddings that hold NaN or infinity, expected finite numbers. Try a "
                "smaller lr, or a smaller alpha at the start."
            )
        if unit.shape[1] == 2:
            angles = torch.atan2(unit[:, 1], unit[:, 0])
            state.angles[len(state.history)] = angles.float().cpu()
        means = geometry.class_means(unit, labels)
        return {
            "recall_at_1": recall_at_1(unit, labels, query, gallery),
            "intra_class_variance": geometry.intra_class_variance(means),
            "inter_class_distance": geometry.inter_class_distance(means),
        }

    return monitor


@float32_products()
def recall_at_1(unit: Tensor, labels: Tensor, query: Tensor, gallery: Tensor) -> float:
    """Compute the share of queries whose nearest other gallery sample is of their class.

    `unit` is (N, D) float64 of length 1 or 0. Other classes are compared in float32 first, and in
    float64 where the result is in doubt. Processes share the work.
    """
    order = labels.argsort(stable=True)  # so that the samples of a class are neighbors
    queries, samples = order[query[order]], order[gallery[order]]
    starts, stops = (
        torch.searchsorted(labels[samples], labels[queries], right=right) for right in (False, True)
    )
    unit_queries, unit_samples = unit[queries], unit[samples]
    low_queries, low_samples = unit_queries.float(), unit_samples.float()
    indices = torch.arange(len(queries), device=unit.device)
    bound = GRID * (unit.shape[1] + 8) * 2.0**-24  # of the error of a float32 product
    hits = torch.zeros_like(unit_queries[:, 0])
    for rows in local_shard(indices.split(max(1, ENTRIES // len(samples)))):
        first = min(int(starts[rows[0]]), len(samples) - 1)
        last = max(int(stops[rows[-1]]), first + 1)
        block = scaled_cosines(unit_queries[rows], unit_samples[first:last])
        same = labels[samples[first:last]] == labels[queries[rows], None]
        other = samples[first:last] != queries[rows, None]
        positive = block.masked_fill(~(same & other), -torch.inf).amax(dim=1)
        negative = block.masked_fill(same, -torch.inf).amax(dim=1)
        rest = low_queries[rows] @ low_samples.T
        rest[:, first:last] = -torch.inf
        nearest = rest.amax(dim=1).double() * GRID
        doubt = (positive > negative) & ((positive - nearest).abs() <= bound)
        exact = scaled_cosines(unit_queries[rows[doubt]], unit_samples)
        exact[:, first:last] = -torch.inf
        nearest[doubt] = exact.amax(dim=1)
        hits[rows] = (positive > torch.maximum(negative, nearest)).double()
    return all_reduce_sum(hits).mean().item()


def scaled_cosines(a: Tensor, b: Tensor) -> Tensor:
    """Return the cosines (A, B) of unit vectors, times GRID and rounded."""
    return (a @ b.T).mul_(GRID).round_()
