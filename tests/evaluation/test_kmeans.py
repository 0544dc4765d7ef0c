from itertools import pairwise, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from heated.common.errors import InputError
from heated.common.geometry import l2_normalize
from heated.evaluation.kmeans import Assignment, lloyd, updated

DTYPES = [torch.bfloat16, torch.float32]


def drawn(size, dim, *, seed=0, classes=None, noise=1.0):
    generator = torch.Generator().manual_seed(seed)
    points = noise * torch.randn(size, dim, generator=generator)
    if classes is not None:
        points += torch.randn(classes, dim, generator=generator).repeat(size, 1)[:size]
    return l2_normalize(points)


def clustered(unit, clusters, *, seed=0, iterations=5, **options):
    generator = torch.Generator().manual_seed(seed)
    return lloyd(unit, clusters, iterations=iterations, generator=generator, **options)


def distances(unit, centres):
    return ((unit[:, None, :] - centres[None]) ** 2).sum(dim=2)


def lloyd_written_out(unit, clusters, iterations, seed):
    """Labels and mean squared distance by all distances in float64; clusters must not empty."""
    order = torch.randperm(len(unit), generator=torch.Generator().manual_seed(seed))
    centres = unit[order[:clusters]]
    for _ in range(iterations):
        labels = distances(unit, centres).argmin(dim=1)
        centres = torch.stack([unit[labels == k].mean(dim=0) for k in range(clusters)])
    nearest = distances(unit, centres).min(dim=1)
    return nearest.indices, nearest.values.mean().item()


def test_clusters_equal_lloyds_algorithm_written_out(subtests):
    sizes = [(300, 20, 16), (500, 90, 64), (200, 6, 2)]
    for (size, clusters, dim), iterations in product(sizes, [1, 3]):
        unit = drawn(size, dim, classes=clusters)
        labels, objective = lloyd_written_out(unit, clusters, iterations, seed=3)
        for dtype in DTYPES:
            with subtests.test(size=size, iterations=iterations, dtype=dtype):
                found = clustered(unit, clusters, seed=3, iterations=iterations, dtype=dtype)
                assert torch.equal(found.labels, labels)
                assert found.objective == pytest.approx(objective, rel=1e-12)
                assert found.iterations == iterations


@given(st.integers(0, 2**32), st.sampled_from(DTYPES), st.integers(1, 9))
@settings(max_examples=200, deadline=None)
def test_every_sample_is_given_to_a_nearest_centre(seed, dtype, dim):
    random = np.random.default_rng(seed)
    points = torch.from_numpy(random.integers(-2, 3, size=(60, dim)))
    unit = l2_normalize(points[points.abs().sum(dim=1) > 0])
    centres = unit[random.permutation(len(unit))[: random.integers(1, len(unit))]]
    centres = centres * torch.from_numpy(random.choice([0.0, 0.5, 1.0], size=(len(centres), 1)))
    found = Assignment(unit, centres, memory=128, dtype=dtype).nearest(centres)
    every = distances(unit, centres)
    least = every.min(dim=1, keepdim=True).values
    assert (every.gather(1, found[:, None]) - least).max() < 1e-12


def test_of_equally_near_centres_the_first_is_taken():
    unit = l2_normalize(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))
    centres = unit[[0, 1, 1, 0]]
    assignment = Assignment(unit, centres, memory=128, dtype=torch.bfloat16)
    assert assignment.nearest(centres).tolist() == [0, 1, 0]


def test_the_objective_does_not_rise_and_it_stops_when_no_sample_moves():
    unit = drawn(400, 8)
    steps = [clustered(unit, 30, iterations=i) for i in range(1, 12)]
    assert all(b.objective <= a.objective + 1e-12 for a, b in pairwise(steps))
    assert not steps[0].converged
    unit = drawn(300, 4, classes=5, noise=0.05)
    rested = clustered(unit, 5, iterations=100)
    assert rested.converged
    assert rested.iterations < 100
    again = clustered(unit, 5, iterations=rested.iterations)
    assert torch.equal(again.labels, rested.labels)


def test_memory_changes_nothing():
    unit = drawn(500, 16, classes=40)
    assignment = Assignment(unit, unit[:40], memory=128, dtype=torch.bfloat16)
    whole = assignment.nearest(unit[:40])
    assignment.rows, assignment.portion = 7, 1
    assert torch.equal(assignment.nearest(unit[:40]), whole)


def test_the_seed_decides():
    unit = drawn(300, 8)
    one, same, other = (clustered(unit, 20, seed=seed).labels for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_a_cluster_without_samples_starts_again_at_the_farthest_sample():
    unit = l2_normalize(torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, -0.1], [0.0, 1.0]]))
    centres = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    moved = updated(unit, torch.zeros(4, dtype=torch.int64), centres)
    assert torch.equal(moved[1], unit[3])
    torch.testing.assert_close(moved[0], unit[:3].mean(dim=0))


def test_fewer_samples_than_clusters():
    found = clustered(l2_normalize(torch.eye(3).repeat(10, 1)), 8, iterations=20)
    assert found.objective == pytest.approx(0, abs=1e-12)
    assert found.labels.unique().numel() == 3  # different samples
    assert found.converged
    found = clustered(drawn(40, 8), 40)
    assert sorted(found.labels.tolist()) == list(range(40))
    assert found.objective == pytest.approx(0, abs=1e-12)
    with pytest.raises(InputError, match="came 41 clusters for 40 samples; allowed: at most N"):
        clustered(drawn(40, 8), 41)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_clusters_as_the_cpu_does():
    unit = drawn(2000, 64, classes=300)
    here, there = clustered(unit, 300), clustered(unit.cuda(), 300)
    assert torch.equal(there.labels.cpu(), here.labels)
    assert there.objective == pytest.approx(here.objective, rel=1e-12)
