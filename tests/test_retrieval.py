import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from heated.neighbours import Ranks
from heated.retrieval import RETRIEVAL, recall_at

METRICS = {
    **RETRIEVAL,
    "recall_at_1": lambda found: recall_at(found, 1),
    "recall_at_3": lambda found: recall_at(found, 3),
}

# A query as its gallery from near to far: True where the class is the query's.
QUERIES = st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=1, max_size=5)


def ranks(queries):
    places = [[i + 1 for i, right in enumerate(query) if right] for query in queries]
    width = max(1, *map(len, places), 0)
    padded = [row + [0] * (width - len(row)) for row in places]
    return Ranks(torch.tensor(padded), torch.tensor([len(row) for row in places]))


def recall_one_by_one(query, k):
    return float(any(query[:k]))


def r_precision_one_by_one(query):
    relevant = sum(query)
    return sum(query[:relevant]) / relevant if relevant else 0.0


def map_at_r_one_by_one(query):
    relevant = sum(query)
    hits = [sum(query[: i + 1]) / (i + 1) for i in range(relevant) if query[i]]
    return sum(hits) / relevant if relevant else 0.0


@given(QUERIES, st.integers(1, 7))
def test_recall_equals_looking_at_the_k_nearest_one_by_one(queries, k):
    expected = np.mean([recall_one_by_one(query, k) for query in queries])
    assert recall_at(ranks(queries), k) == pytest.approx(expected, abs=1e-12)


@given(QUERIES)
def test_r_precision_equals_counting_among_the_r_nearest(queries):
    expected = np.mean([r_precision_one_by_one(query) for query in queries])
    assert RETRIEVAL["r_precision"](ranks(queries)) == pytest.approx(expected, abs=1e-12)


@given(QUERIES)
def test_map_at_r_equals_the_sum_of_precisions_written_out(queries):
    expected = np.mean([map_at_r_one_by_one(query) for query in queries])
    assert RETRIEVAL["map_at_r"](ranks(queries)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", METRICS)
@given(queries=QUERIES)
def test_every_metric_is_between_0_and_1(name, queries):
    assert 0 <= METRICS[name](ranks(queries)) <= 1


@pytest.mark.parametrize("name", METRICS)
def test_same_class_samples_in_front_score_1(name):
    assert METRICS[name](ranks([[True, True, False], [True, False, False]])) == 1


@pytest.mark.parametrize("name", METRICS)
def test_same_class_samples_at_the_end_score_0(name):
    assert METRICS[name](ranks([[False, False, False, True], [False, False, False, True]])) == 0


@pytest.mark.parametrize("name", METRICS)
def test_a_query_without_a_sample_of_its_class_scores_0_and_counts(name):
    assert METRICS[name](ranks([[True, False, False], [False, False, False]])) == 0.5


@pytest.mark.parametrize("name", METRICS)
def test_the_order_of_queries_does_not_matter(name):
    queries = [[True, False, True, False], [False, True, False, False], [False, False, False, True]]
    assert METRICS[name](ranks(queries)) == METRICS[name](ranks(queries[::-1]))


@given(QUERIES)
def test_recall_does_not_fall_as_k_rises(queries):
    recalls = [recall_at(ranks(queries), k) for k in range(1, 8)]
    assert recalls == sorted(recalls)


@given(QUERIES)
def test_map_at_r_is_at_most_r_precision(queries):
    found = ranks(queries)
    assert RETRIEVAL["map_at_r"](found) <= RETRIEVAL["r_precision"](found) + 1e-12
