from itertools import product

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


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def distances(unit, centres):
    return ((unit[:, None, :] - centres[None]) ** 2).sum(dim=2)


def lloyd_written_out(unit, clusters, iterations, seed):
    """Labels and mean squared distance by all distances in float64; clusters must not empty."""
    centres = unit[torch.randperm(len(unit), generator=generator(seed))[:clusters]]
    for _ in range(iterations):
        labels = distances(unit, centres).argmin(dim=1)
        centres = torch.stack([unit[labels == k].mean(dim=0) for k in range(clusters)])
    nearest = distances(unit, centres).min(dim=1)
    return nearest.indices, nearest.values.mean().item()


def test_clusters_equal_lloyds_algorithm_written_out(subtests):
    for dtype, (size, clusters, dim), iterations in product(
        DTYPES, [(300, 20, 16), (500, 90, 64), (200, 6, 2)], [1, 3]
    ):
        with subtests.test(
            dtype=dtype, size=size, clusters=clusters, dim=dim, iterations=iterations
        ):
            unit = drawn(size, dim, classes=clusters)
            labels, objective = lloyd_written_out(unit, clusters, iterations, seed=3)
            found = lloyd(
                unit, clusters, iterations=iterations, generator=generator(3), dtype=dtype
            )
            assert torch.equal(found.labels, labels)
            assert found.objective == pytest.approx(objective, rel=1e-12)
            assert found.iterations == iterations


@given(st.integers(0, 2**32), st.sampled_from(DTYPES), st.integers(1, 9))
@settings(max_examples=200, deadline=None)
def test_every_sample_is_given_to_a_nearest_centre(seed, dtype, dim):
    random = np.random.default_rng(seed)
    points = torch.from_numpy(random.integers(-2, 3, size=(60, dim)))
    points = points[points.abs().sum(dim=1) > 0]
    unit = l2_normalize(points)
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


def test_the_objective_does_not_rise():
    unit = drawn(400, 8)
    steps = [lloyd(unit, 30, iterations=i, generator=generator()).objective for i in range(1, 12)]
    assert all(a >= b - 1e-12 for a, b in zip(steps, steps[1:], strict=False))


def test_it_stops_when_no_sample_moves_and_says_so():
    unit = drawn(300, 4, classes=5, noise=0.05)
    rested = lloyd(unit, 5, iterations=100, generator=generator())
    assert rested.converged
    assert rested.iterations < 100
    again = lloyd(unit, 5, iterations=rested.iterations, generator=generator())
    assert torch.equal(again.labels, rested.labels)
    assert not lloyd(drawn(400, 8), 30, iterations=1, generator=generator()).converged


def test_memory_changes_nothing():
    unit = drawn(500, 16, classes=40)
    assignment = Assignment(unit, unit[:40], memory=128, dtype=torch.bfloat16)
    whole = assignment.nearest(unit[:40])
    assignment.rows, assignment.portion = 7, 1
    assert torch.equal(assignment.nearest(unit[:40]), whole)


def test_the_seed_decides():
    unit = drawn(300, 8)
    one, same, other = (
        lloyd(unit, 20, iterations=5, generator=generator(seed)).labels for seed in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_a_cluster_without_samples_starts_again_at_the_farthest_sample():
    unit = l2_normalize(torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, -0.1], [0.0, 1.0]]))
    centres = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    moved = updated(unit, torch.zeros(4, dtype=torch.int64), centres)
    assert torch.equal(moved[1], unit[3])
    torch.testing.assert_close(moved[0], unit[:3].mean(dim=0))


def test_duplicates_fewer_than_clusters_do_no_harm():
    unit = l2_normalize(torch.eye(3).repeat(10, 1))
    found = lloyd(unit, 8, iterations=20, generator=generator())
    assert found.objective == pytest.approx(0, abs=1e-12)
    assert found.labels.unique().numel() == 3
    assert found.converged


def test_as_many_clusters_as_samples_are_the_samples():
    unit = drawn(40, 8)
    found = lloyd(unit, 40, iterations=3, generator=generator())
    assert sorted(found.labels.tolist()) == list(range(40))
    assert found.objective == pytest.approx(0, abs=1e-12)


def test_more_clusters_than_samples_are_refused():
    with pytest.raises(InputError, match="came 41 clusters for 40 samples; allowed: at most N"):
        lloyd(drawn(40, 8), 41, iterations=3, generator=generator())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_clusters_as_the_cpu_does():
    unit = drawn(2000, 64, classes=300)
    here = lloyd(unit, 300, iterations=5, generator=generator())
    there = lloyd(unit.cuda(), 300, iterations=5, generator=generator())
    assert torch.equal(there.labels.cpu(), here.labels)
    assert there.objective == pytest.approx(here.objective, rel=1e-12)
