from itertools import pairwise, product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from heated.common.errors import InputError
from heated.common.geometry import l2_normalize
from heated.evaluation.candidate_filter import CandidateFilter, round_vectors
from heated.evaluation.clustering import (
    EXTRA_COLUMNS,
    assign,
    lloyd,
    update_centers,
    with_half_norms,
)

DTYPES = [torch.bfloat16, torch.float32]


def unit_vectors(size, dim, *, seed=0, classes=None, noise=1.0):
    generator = torch.Generator().manual_seed(seed)
    points = noise * torch.randn(size, dim, generator=generator)
    if classes is not None:
        points += torch.randn(classes, dim, generator=generator).repeat(size, 1)[:size]
    return l2_normalize(points)


def cluster(unit, num_clusters, *, seed=0, iterations=5, **options):
    generator = torch.Generator().manual_seed(seed)
    return lloyd(unit, num_clusters, iterations=iterations, generator=generator, **options)


def assign_samples(unit, centers, dtype, block_size=None):
    gallery = with_half_norms(centers, dtype)
    products = CandidateFilter(gallery, dtype, num_queries=len(unit), memory_mib=128)
    if block_size:
        starts = range(0, len(unit), block_size)
        products.blocks = [slice(start, start + block_size) for start in starts]
        products.max_columns = 1
    values, error = round_vectors(unit, dtype)
    padded = F.pad(F.pad(values, (0, 3), value=1), (0, EXTRA_COLUMNS - 3))
    return assign(unit, (padded, error), centers, products)


def distances(unit, centers):
    return ((unit[:, None, :] - centers[None]) ** 2).sum(dim=2)


def reference_lloyd(unit, num_clusters, iterations, seed):
    """Labels and mean squared distance by all distances in float64; clusters must not be empty."""
    order = torch.randperm(len(unit), generator=torch.Generator().manual_seed(seed))
    centers = unit[order[:num_clusters]]
    for _ in range(iterations):
        labels = distances(unit, centers).argmin(dim=1)
        centers = torch.stack([unit[labels == k].mean(dim=0) for k in range(num_clusters)])
    nearest = distances(unit, centers).min(dim=1)
    return nearest.indices, nearest.values.mean().item()


def test_clusters_equal_a_reference_implementation(subtests):
    sizes = [(300, 20, 16), (500, 90, 64), (200, 6, 2)]
    for (size, num_clusters, dim), iterations in product(sizes, [1, 3]):
        unit = unit_vectors(size, dim, classes=num_clusters)
        labels, objective = reference_lloyd(unit, num_clusters, iterations, seed=3)
        for dtype in DTYPES:
            with subtests.test(size=size, iterations=iterations, dtype=dtype):
                found = cluster(unit, num_clusters, seed=3, iterations=iterations, dtype=dtype)
                assert torch.equal(found.labels, labels)
                assert found.objective == pytest.approx(objective, rel=1e-12)
                assert found.iterations == iterations


@given(st.integers(0, 2**32), st.sampled_from(DTYPES), st.integers(1, 9))
@settings(max_examples=200, deadline=None)
def test_every_sample_is_assigned_to_a_nearest_center(seed, dtype, dim):
    random = np.random.default_rng(seed)
    points = torch.from_numpy(random.integers(-2, 3, size=(60, dim)))
    unit = l2_normalize(points[points.abs().sum(dim=1) > 0])
    centers = unit[random.permutation(len(unit))[: random.integers(1, len(unit))]]
    centers = centers * torch.from_numpy(random.choice([0.0, 0.5, 1.0], size=(len(centers), 1)))
    found = assign_samples(unit, centers, dtype)
    every = distances(unit, centers)
    least = every.min(dim=1, keepdim=True).values
    assert (every.gather(1, found[:, None]) - least).max() < 1e-12


def test_ties_go_to_the_first_center():
    unit = l2_normalize(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))
    assert assign_samples(unit, unit[[0, 1, 1, 0]], torch.bfloat16).tolist() == [0, 1, 0]


def test_the_objective_does_not_rise_and_iterations_stop_when_no_sample_moves():
    unit = unit_vectors(400, 8)
    steps = [cluster(unit, 30, iterations=i) for i in range(1, 12)]
    assert all(b.objective <= a.objective + 1e-12 for a, b in pairwise(steps))
    assert not steps[0].converged
    unit = unit_vectors(300, 4, classes=5, noise=0.05)
    converged = cluster(unit, 5, iterations=100)
    assert converged.converged
    assert converged.iterations < 100
    again = cluster(unit, 5, iterations=converged.iterations)
    assert torch.equal(again.labels, converged.labels)


def test_results_depend_on_the_seed_but_not_on_memory():
    unit = unit_vectors(500, 16, classes=40)
    whole = assign_samples(unit, unit[:40], torch.bfloat16)
    assert torch.equal(assign_samples(unit, unit[:40], torch.bfloat16, block_size=7), whole)
    one, same, other = (cluster(unit, 20, seed=seed).labels for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_an_empty_cluster_restarts_at_the_farthest_sample():
    unit = l2_normalize(torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, -0.1], [0.0, 1.0]]))
    centers = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    moved = update_centers(unit, torch.zeros(4, dtype=torch.int64), centers)
    assert torch.equal(moved[1], unit[3])
    torch.testing.assert_close(moved[0], unit[:3].mean(dim=0))


def test_fewer_samples_than_clusters():
    found = cluster(l2_normalize(torch.eye(3).repeat(10, 1)), 8, iterations=20)
    assert found.objective == pytest.approx(0, abs=1e-12)
    assert found.labels.unique().numel() == 3  # different samples
    assert found.converged
    found = cluster(unit_vectors(40, 8), 40)
    assert sorted(found.labels.tolist()) == list(range(40))
    assert found.objective == pytest.approx(0, abs=1e-12)
    with pytest.raises(InputError, match="got 41 clusters, expected at most 40"):
        cluster(unit_vectors(40, 8), 41)
