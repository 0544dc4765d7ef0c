from itertools import combinations, product

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from heated.evaluation.geometry import GEOMETRY, compactness, spread

NAMES = list(GEOMETRY)


def points(seed, size=40, dim=5, classes=4):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(size) % classes
    centres = torch.randn(classes, dim, generator=generator, dtype=torch.float64)
    noise = torch.randn(size, dim, generator=generator, dtype=torch.float64)
    return F.normalize(centres[labels] + 0.7 * noise, dim=1), labels


def cosine(a, b):
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def mean_directions(unit, labels):
    return {c: unit[labels == c].mean(axis=0) for c in np.unique(labels)}


def compactness_sample_by_sample(unit, labels):
    means = mean_directions(unit, labels)
    distances = [[1 - cosine(x, means[c]) for x in unit[labels == c]] for c in means]
    return np.mean([np.mean(one_class) for one_class in distances])


def spread_pair_by_pair(unit, labels):
    means = mean_directions(unit, labels)
    return np.mean([(1 - cosine(a, b)) / 2 for a, b in combinations(means.values(), 2)])


def test_compactness_equals_the_mean_distance_sample_by_sample(subtests):
    for seed in range(5):
        with subtests.test(seed=seed):
            unit, labels = points(seed)
            expected = compactness_sample_by_sample(unit.numpy(), labels.numpy())
            assert compactness(unit, labels) == pytest.approx(expected, abs=1e-12)


def test_spread_equals_the_mean_over_all_pairs_of_classes(subtests):
    for seed in range(5):
        with subtests.test(seed=seed):
            unit, labels = points(seed)
            expected = spread_pair_by_pair(unit.numpy(), labels.numpy())
            assert spread(unit, labels) == pytest.approx(expected, abs=1e-12)


def test_by_hand():
    unit = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    labels = torch.tensor([0, 0, 1, 1])
    # class 0 has a mean of length sqrt(1/2) at 45 degrees, class 1 is one point at 180
    assert compactness(unit, labels) == pytest.approx((1 - 0.5**0.5) / 2)
    assert spread(unit, labels) == pytest.approx((1 + 0.5**0.5) / 2)


def test_every_class_weighs_the_same_whatever_its_size():
    unit = torch.tensor([[1.0, 0.0], [0.0, 1.0]] + [[-1.0, 0.0]] * 10, dtype=torch.float64)
    labels = torch.tensor([0, 0] + [1] * 10)
    assert compactness(unit, labels) == pytest.approx((1 - 0.5**0.5) / 2)


def test_classes_of_a_single_point_each_have_compactness_0():
    labels = torch.tensor([0, 0, 1, 1, 2])
    assert compactness(torch.eye(3)[labels], labels) == 0


def test_a_class_without_a_direction_has_compactness_1():
    unit = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    assert compactness(unit, torch.zeros(4, dtype=torch.int64)) == 1


def test_spread_is_0_where_all_point_one_way_and_1_for_two_opposite_classes():
    labels = torch.tensor([0, 1, 0, 1])
    one_way = torch.tensor([[0.0, 1.0]] * 4)
    opposite = torch.tensor([[0.0, 1.0], [0.0, -1.0]] * 2)
    assert (spread(one_way, labels), spread(opposite, labels)) == (0, 1)


def test_spread_of_a_single_class_is_0():
    assert spread(torch.eye(3), torch.zeros(3, dtype=torch.int64)) == 0


def test_every_value_is_between_0_and_1(subtests):
    for name, seed in product(NAMES, range(5)):
        with subtests.test(name=name, seed=seed):
            assert 0 <= GEOMETRY[name](*points(seed)) <= 1


@pytest.mark.parametrize("name", NAMES)
def test_a_rotation_changes_nothing(name):
    unit, labels = points(0)
    generator = torch.Generator().manual_seed(1)
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=generator, dtype=torch.float64)).Q
    rotated = GEOMETRY[name](unit @ rotation, labels)
    assert rotated == pytest.approx(GEOMETRY[name](unit, labels), abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_renaming_classes_and_reordering_samples_change_nothing(name):
    unit, labels = points(0)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(2))
    renamed = torch.tensor([7, 0, 3, 5])[labels]
    value = GEOMETRY[name](unit[order], renamed[order])
    assert value == pytest.approx(GEOMETRY[name](unit, labels), abs=1e-12)
