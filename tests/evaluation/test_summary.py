from statistics import mean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t

from heated.evaluation.metrics import mean_with_interval, summarize_seeds

VALUES = st.lists(st.floats(0, 1), min_size=2, max_size=12).filter(lambda v: stdev(v) > 1e-6)


@given(VALUES)
def test_the_interval_is_students_for_the_mean(values):
    found = mean_with_interval(dict(enumerate(values)))
    error = stdev(values) / len(values) ** 0.5
    expected = t.interval(0.95, len(values) - 1, loc=mean(values), scale=error)
    assert found["interval"] == pytest.approx(expected, abs=1e-9)
    assert found["mean"] == pytest.approx(mean(values))
    assert found["std"] == pytest.approx(stdev(values))
    assert found["n"] == len(values)


def test_equal_values_have_an_interval_of_width_0_and_a_single_one_has_none():
    assert mean_with_interval({0: 0.5, 1: 0.5})["interval"] == [0.5, 0.5]
    assert mean_with_interval({0: 0.5, 1: 0.5})["std"] == 0
    one = {"mean": 0.25, "std": None, "interval": None, "n": 1, "seeds": {"3": 0.25}}
    assert mean_with_interval({3: 0.25}) == one


def test_seeds_are_in_ascending_order_under_each_metric():
    by_seed = {10: {"f1": 0.1, "ami": 0.4}, 2: {"f1": 0.2, "ami": 0.5}, 0: {"f1": 0.3, "ami": 0.6}}
    found = summarize_seeds(by_seed)
    assert list(found) == ["f1", "ami"]
    assert list(found["f1"]["seeds"].items()) == [("0", 0.3), ("2", 0.2), ("10", 0.1)]
    assert found["ami"]["mean"] == pytest.approx(0.5)
    by_seed = {seed: {"f1": 0.1 * seed + 0.037} for seed in range(7)}
    backwards = dict(reversed(by_seed.items()))
    assert summarize_seeds(by_seed) == summarize_seeds(backwards)


def test_the_engine_is_added_to_metrics_of_clusters():
    names = ("recall_at_1", "f1", "f1_kmeans_std", "kmeans_objective", "inter_class_distance")
    found = summarize_seeds({0: dict.fromkeys(names, 0.5)}, "lloyd")
    assert [name for name in found if "engine" in found[name]] == [*names[1:4]]
    assert found["f1"]["engine"] == "lloyd"
