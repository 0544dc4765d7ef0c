import os
import subprocess
import sys
from itertools import combinations, product
from math import log

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_mutual_info_score

from heated.common.geometry import l2_normalize
from heated.evaluation.clustering import CLUSTERING, KMEANS, ami, f1, nmi

OPTIONS = {"scikit-learn": {"restarts": 5}, "lloyd": {"restarts": 5, "iterations": 50}}
PARTITIONS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=40)


def partitions(seed, size=60, classes=4, clusters=5):
    random = np.random.default_rng(seed)
    truth = random.integers(classes, size=size)
    noisy = np.where(random.random(size) < 0.5, truth, random.integers(clusters, size=size))
    return truth, noisy


def entropy(labels):
    shares = np.unique(labels, return_counts=True)[1] / len(labels)
    return -sum(p * log(p) for p in shares)


def information(classes, clusters):
    total = 0.0
    for c, k in product(np.unique(classes), np.unique(clusters)):
        both = np.mean((classes == c) & (clusters == k))
        if both:
            total += both * log(both / (np.mean(classes == c) * np.mean(clusters == k)))
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


def test_scikit_learn_gets_the_restarts_and_the_seed():
    points = np.random.default_rng(5).normal(size=(80, 3)).astype(np.float32)
    for restarts, seed in product([1, 3], [0, 7]):
        expected = KMeans(n_clusters=6, n_init=restarts, random_state=seed).fit(points)
        found = KMEANS["scikit-learn"](torch.from_numpy(points), 6, restarts=restarts, seed=seed)
        assert found.labels.dtype == torch.int64
        np.testing.assert_array_equal(found.labels, expected.labels_)
        assert found.objective * 80 == expected.inertia_
        assert (found.iterations, found.converged) == (expected.n_iter_, True)


@pytest.mark.parametrize("name", KMEANS)
def test_every_engine_finds_separated_clusters_and_their_mean_squared_distance(name):
    truth, random = np.repeat([0, 1, 2], 10), np.random.default_rng(0)
    points = np.eye(3)[truth] + random.normal(scale=0.01, size=(30, 3))
    found = KMEANS[name](l2_normalize(torch.from_numpy(points)), 3, seed=0, **OPTIONS[name])
    assert f1(truth, found.labels.numpy()) == 1
    assert found.converged
    unit = l2_normalize(torch.from_numpy(random.normal(size=(200, 8))))
    found = KMEANS[name](unit, 12, seed=0, **OPTIONS[name])
    clusters = [unit[found.labels == k] for k in found.labels.unique()]
    apart = sum(((cluster - cluster.mean(dim=0)) ** 2).sum().item() for cluster in clusters)
    assert found.objective == pytest.approx(apart / 200, rel=1e-4)


def test_more_restarts_find_clusters_at_least_as_tight():
    unit = l2_normalize(torch.from_numpy(np.random.default_rng(5).normal(size=(200, 8))))
    one, five = (
        KMEANS["lloyd"](unit, 12, restarts=restarts, iterations=50, seed=0).objective
        for restarts in (1, 5)
    )
    assert five < one


def nmi_by_formula(classes, clusters):
    """The geometric and the arithmetic one."""
    one, other, shared = entropy(classes), entropy(clusters), information(classes, clusters)
    return shared / (one * other) ** 0.5, 2 * shared / (one + other)


@given(PARTITIONS)
@settings(max_examples=200, deadline=None)
def test_every_metric_equals_its_formula_or_scikit_learns(both):
    classes, clusters = np.array(both).T
    expected = adjusted_mutual_info_score(classes, clusters)
    assert ami(classes, clusters) == pytest.approx(expected, abs=1e-9)
    assert f1(classes, clusters) == pytest.approx(f1_pair_by_pair(classes, clusters), abs=1e-12)
    if len(set(classes)) > 1 and len(set(clusters)) > 1:
        found = [nmi(classes, clusters, mean) for mean in ("geometric", "arithmetic")]
        assert found == pytest.approx(nmi_by_formula(classes, clusters), abs=1e-12)


def test_by_hand():
    # pairs in one class: 01 02 12 34; in one cluster: 01 23 24 34; in both: 01 34
    assert f1(np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 1, 1])) == 0.5
    classes, clusters = np.array([0, 0, 1, 1] * 3), np.array([0, 1, 2, 3] * 3)
    assert nmi(classes, clusters, "geometric") == pytest.approx(0.5**0.5)
    assert nmi(classes, clusters, "arithmetic") == pytest.approx(2 / 3)


@pytest.mark.parametrize("name", CLUSTERING)
def test_every_metric_is_bounded_and_does_not_depend_on_names_and_order(name):
    metric = CLUSTERING[name]
    classes = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2, 2])
    assert metric(classes, classes) == pytest.approx(1, abs=1e-12)
    across = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    # AMI below chance: I = 0, H = log 2, and E[I] = log(2) / 3 over the 6 ways to pair 2 with 2
    assert metric(*across) == pytest.approx(-0.5 if name == "ami" else 0, abs=1e-12)
    renamed, order = np.array([3, 0, 4, 1, 2]), np.random.default_rng(1).permutation(60)
    for seed in range(4):
        classes, clusters = partitions(seed)
        value = metric(classes, clusters)
        assert isinstance(value, float)
        assert (-1 if name == "ami" else 0) <= value <= 1
        assert metric(renamed[classes], renamed[clusters]) == pytest.approx(value, abs=1e-12)
        assert metric(classes[order], clusters[order]) == pytest.approx(value, abs=1e-12)


def test_large_partitions_need_no_table_of_all_pairs():
    size, classes = 60_502, 11_316
    truth = np.arange(size) % classes
    random = np.random.default_rng(0).permutation(truth)
    assert nmi(truth, random, "geometric") > 0.8
    assert abs(ami(truth, random)) < 0.001
    assert f1(truth, random) < 0.001
    assert ami(truth, truth) == f1(truth, truth) == 1


ONE_THREAD = """
import torch
from threadpoolctl import threadpool_info
from heated.evaluation.clustering import KMEANS
from heated.runtime.device import setup_device

setup_device(threads=1)
import sklearn.cluster

class Recorded(sklearn.cluster.KMeans):
    def fit_predict(self, samples):
        print(*sorted({pool["num_threads"] for pool in threadpool_info()}))
        return super().fit_predict(samples)

sklearn.cluster.KMeans = Recorded
KMEANS["scikit-learn"](torch.eye(8), 2, restarts=1, seed=0)
"""


def test_scikit_learn_uses_the_threads_of_torch_even_if_it_is_imported_later():
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    command = [sys.executable, "-c", ONE_THREAD]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
