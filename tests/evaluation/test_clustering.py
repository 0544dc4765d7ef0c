from itertools import combinations, product
from math import comb, log

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_mutual_info_score, normalized_mutual_info_score

from heated.evaluation.clustering import CLUSTERING, KMEANS, ami, f1, nmi_arithmetic, nmi_geometric
from heated.common.geometry import l2_normalize

NAMES = list(CLUSTERING)
OPTIONS = {"scikit-learn": {"restarts": 5}, "lloyd": {"restarts": 5, "iterations": 50}}


PARTITIONS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=40)


def partitions(seed, size=60, classes=4, clusters=5):
    random = np.random.default_rng(seed)
    truth = random.integers(classes, size=size)
    noisy = np.where(random.random(size) < 0.5, truth, random.integers(clusters, size=size))
    return truth, noisy


def shares(labels):
    return np.unique(labels, return_counts=True)[1] / len(labels)


def entropy(labels):
    return -sum(p * log(p) for p in shares(labels))


def information(classes, clusters):
    total = 0.0
    for c in np.unique(classes):
        for k in np.unique(clusters):
            both = np.mean((classes == c) & (clusters == k))
            if both:
                total += both * log(both / (np.mean(classes == c) * np.mean(clusters == k)))
    return total


def information_by_chance(classes, clusters):
    """Mean information over all pairs of partitions with these sizes (Vinh et al., 2010)."""
    size, total = len(classes), 0.0
    for a in np.unique(classes, return_counts=True)[1].tolist():
        for b in np.unique(clusters, return_counts=True)[1].tolist():
            for both in range(max(1, a + b - size), min(a, b) + 1):
                chance = comb(a, both) * comb(size - a, b - both) / comb(size, b)
                total += chance * both / size * log(size * both / (a * b))
    return total


def f1_pair_by_pair(classes, clusters):
    pairs = list(combinations(range(len(classes)), 2))
    one_class = [classes[i] == classes[j] for i, j in pairs]
    one_cluster = [clusters[i] == clusters[j] for i, j in pairs]
    both = sum(a and b for a, b in zip(one_class, one_cluster, strict=True))
    if not both:
        return 0.0
    precision, recall = both / sum(one_cluster), both / sum(one_class)
    return 2 * precision * recall / (precision + recall)


def test_k_means_equals_scikit_learns_with_these_restarts_and_this_seed(subtests):
    for restarts, seed in product([1, 3], [0, 7]):
        with subtests.test(restarts=restarts, seed=seed):
            points = np.random.default_rng(5).normal(size=(80, 3)).astype(np.float32)
            expected = KMeans(n_clusters=6, n_init=restarts, random_state=seed).fit(points)
            found = KMEANS["scikit-learn"](
                torch.from_numpy(points), 6, restarts=restarts, seed=seed
            )
            assert found.labels.dtype == torch.int64
            np.testing.assert_array_equal(found.labels, expected.labels_)
            assert found.objective * 80 == expected.inertia_
            assert (found.iterations, found.converged) == (expected.n_iter_, True)


@pytest.mark.parametrize("name", KMEANS)
def test_every_k_means_finds_clusters_far_apart(name):
    truth = np.repeat([0, 1, 2], 10)
    points = np.eye(3, dtype=np.float32)[truth]
    points += np.random.default_rng(0).normal(scale=0.01, size=points.shape).astype(np.float32)
    found = KMEANS[name](l2_normalize(torch.from_numpy(points)), 3, seed=0, **OPTIONS[name])
    assert f1(truth, found.labels.numpy()) == 1
    assert found.converged


@pytest.mark.parametrize("name", KMEANS)
def test_the_objective_is_the_mean_squared_distance_to_the_clusters_means(name):
    points = np.random.default_rng(5).normal(size=(200, 8))
    unit = l2_normalize(torch.from_numpy(points))
    found = KMEANS[name](unit, 12, seed=0, **OPTIONS[name])
    clusters = [unit[found.labels == k] for k in found.labels.unique()]
    apart = sum(((cluster - cluster.mean(dim=0)) ** 2).sum().item() for cluster in clusters)
    assert found.objective == pytest.approx(apart / 200, rel=1e-4)


def test_more_restarts_find_clusters_at_least_as_tight():
    points = np.random.default_rng(5).normal(size=(200, 8))
    unit = l2_normalize(torch.from_numpy(points))
    one, five = (
        KMEANS["lloyd"](unit, 12, restarts=restarts, iterations=50, seed=0).objective
        for restarts in (1, 5)
    )
    assert five < one


def test_nmi_equals_its_formula_and_scikit_learn(subtests):
    for seed in range(8):
        with subtests.test(seed=seed):
            classes, clusters = partitions(seed)
            shared = information(classes, clusters)
            product, total = (
                entropy(classes) * entropy(clusters),
                entropy(classes) + entropy(clusters),
            )
            assert nmi_geometric(classes, clusters) == pytest.approx(
                shared / product**0.5, abs=1e-12
            )
            assert nmi_arithmetic(classes, clusters) == pytest.approx(2 * shared / total, abs=1e-12)
            for mean, metric in (("geometric", nmi_geometric), ("arithmetic", nmi_arithmetic)):
                theirs = normalized_mutual_info_score(classes, clusters, average_method=mean)
                assert metric(classes, clusters) == theirs


def test_the_two_means_of_nmi_differ():
    classes, clusters = np.array([0, 0, 1, 1] * 3), np.array([0, 1, 2, 3] * 3)
    assert nmi_geometric(classes, clusters) == pytest.approx(0.5**0.5)
    assert nmi_arithmetic(classes, clusters) == pytest.approx(2 / 3)


def test_ami_equals_its_formula_and_scikit_learn(subtests):
    for seed in range(8):
        with subtests.test(seed=seed):
            classes, clusters = partitions(seed)
            chance = information_by_chance(classes, clusters)
            mean = (entropy(classes) + entropy(clusters)) / 2
            expected = (information(classes, clusters) - chance) / (mean - chance)
            assert ami(classes, clusters) == pytest.approx(expected, abs=1e-9)
            theirs = adjusted_mutual_info_score(classes, clusters)
            assert ami(classes, clusters) == pytest.approx(theirs, abs=1e-12)


@given(PARTITIONS)
@settings(max_examples=200, deadline=None)
def test_random_partitions_score_as_scikit_learn_says(both):
    classes, clusters = np.array(both).T
    for mean, metric in (("geometric", nmi_geometric), ("arithmetic", nmi_arithmetic)):
        theirs = normalized_mutual_info_score(classes, clusters, average_method=mean)
        assert metric(classes, clusters) == pytest.approx(theirs, abs=1e-12)
    theirs = max(0, adjusted_mutual_info_score(classes, clusters))
    assert ami(classes, clusters) == pytest.approx(theirs, abs=1e-9)
    assert f1(classes, clusters) == pytest.approx(f1_pair_by_pair(classes, clusters), abs=1e-12)


def test_ami_is_0_where_it_is_less_than_chance():
    classes, clusters = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    assert adjusted_mutual_info_score(classes, clusters) < 0
    assert ami(classes, clusters) == 0


def test_f1_equals_counting_all_pairs_one_by_one(subtests):
    for seed in range(8):
        with subtests.test(seed=seed):
            classes, clusters = partitions(seed, size=40)
            assert f1(classes, clusters) == pytest.approx(
                f1_pair_by_pair(classes, clusters), abs=1e-12
            )


def test_f1_by_hand():
    # pairs in one class: 01 02 12 34; in one cluster: 01 23 24 34; in both: 01 34
    assert f1(np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 1, 1])) == 0.5


def test_clusters_that_are_the_classes_score_1(subtests):
    for name in NAMES:
        with subtests.test(name=name):
            classes = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2, 2])
            assert CLUSTERING[name](classes, classes) == pytest.approx(1, abs=1e-12)


def test_clusters_that_cut_across_the_classes_score_0(subtests):
    for name in NAMES:
        with subtests.test(name=name):
            classes, clusters = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
            assert CLUSTERING[name](classes, clusters) == pytest.approx(0, abs=1e-12)


def test_every_metric_is_between_0_and_1_and_a_float(subtests):
    for name, seed in product(NAMES, range(4)):
        with subtests.test(name=name, seed=seed):
            value = CLUSTERING[name](*partitions(seed))
            assert isinstance(value, float)
            assert 0 <= value <= 1


def test_renaming_clusters_and_classes_changes_nothing(subtests):
    for name in NAMES:
        with subtests.test(name=name):
            classes, clusters = partitions(0)
            renamed = np.array([3, 0, 4, 1, 2])
            value = CLUSTERING[name](renamed[classes], renamed[clusters])
            assert value == pytest.approx(CLUSTERING[name](classes, clusters), abs=1e-12)


def test_the_order_of_samples_does_not_matter(subtests):
    for name in NAMES:
        with subtests.test(name=name):
            classes, clusters = partitions(0)
            order = np.random.default_rng(1).permutation(len(classes))
            value = CLUSTERING[name](classes[order], clusters[order])
            assert value == pytest.approx(CLUSTERING[name](classes, clusters), abs=1e-12)


def test_large_partitions_are_scored_without_a_table_of_all_pairs():
    size, classes = 60_502, 11_316
    truth = np.arange(size) % classes
    random = np.random.default_rng(0).permutation(truth)
    assert nmi_geometric(truth, random) > 0.8
    assert ami(truth, random) < 0.001
    assert f1(truth, random) < 0.001
    assert ami(truth, truth) == f1(truth, truth) == 1
