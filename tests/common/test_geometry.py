from itertools import combinations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from heated.common.geometry import class_means, inter_class_distance, intra_class_variance


def points(seed, size=40, dim=5, classes=4):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(size) % classes
    centers = torch.randn(classes, dim, generator=generator, dtype=torch.float64)
    noise = torch.randn(size, dim, generator=generator, dtype=torch.float64)
    return F.normalize(centers[labels] + 0.7 * noise, dim=1), labels


def measure(unit, labels):
    means = class_means(unit, labels)
    return intra_class_variance(means), inter_class_distance(means)


def by_loops(unit, labels):
    """Both numbers from the distance of each sample, and of each pair of classes."""

    def cosine(a, b):
        return float(a @ b / np.sqrt((a @ a) * (b @ b)))

    means = {c: unit[labels == c].mean(axis=0) for c in np.unique(labels)}
    distances = [[1 - cosine(x, means[c]) for x in unit[labels == c]] for c in means]
    pairs = [(1 - cosine(a, b)) / 2 for a, b in combinations(means.values(), 2)]
    return np.mean([np.mean(one_class) for one_class in distances]), np.mean(pairs)


def test_both_equal_loops_and_are_invariant_to_rotation_relabeling_and_order():
    rotation = torch.linalg.qr(points(9, size=5)[0]).Q
    for seed in range(5):
        unit, labels = points(seed)
        expected = pytest.approx(by_loops(unit.numpy(), labels.numpy()), abs=1e-12)
        assert measure(unit, labels) == expected
        assert measure(unit @ rotation, labels) == expected
        assert class_means(unit.float(), labels).dtype == torch.float64
        renamed = torch.tensor([7, 0, 3, 5])[labels]
        assert measure(unit.flip(0), renamed.flip(0)) == expected


def test_by_hand_and_best_and_worst():
    for copies in (2, 10):  # every class has the same weight, whatever its size
        unit = torch.tensor([[1.0, 0.0], [0.0, 1.0]] + [[-1.0, 0.0]] * copies, dtype=torch.float64)
        labels = torch.tensor([0, 0] + [1] * copies)
        # class 0 has a mean of length sqrt(1/2) at 45 degrees, class 1 is one point at 180
        expected = (1 - 0.5**0.5) / 2, (1 + 0.5**0.5) / 2
        assert measure(unit, labels) == pytest.approx(expected)
    single_points = torch.tensor([0, 0, 1, 1, 2])
    assert measure(torch.eye(3)[single_points], single_points)[0] == 0
    all_round = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    assert measure(all_round, torch.zeros(4, dtype=torch.int64)) == (1, 0)  # a single class
    labels = torch.tensor([0, 1, 0, 1])
    assert measure(torch.tensor([[0.0, 1.0]] * 4), labels)[1] == 0
    assert measure(torch.tensor([[0.0, 1.0], [0.0, -1.0]] * 2), labels)[1] == 1
