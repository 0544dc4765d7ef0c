from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from heated.common.geometry import l2_normalize
from heated.evaluation.metrics import (
    RETRIEVAL,
    recall_at,
    retrieval_metrics,
)
from heated.evaluation.ranking import Ranks

# A query as its gallery from near to far: True for a positive.
QUERIES = st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=1, max_size=5)


def make_ranks(queries):
    places = [[i + 1 for i, positive in enumerate(query) if positive] for query in queries]
    width = max(1, *map(len, places), 0)
    within_r = [[rank for rank in row if rank <= len(row)] for row in places]
    padded = [row + [0] * (width - len(row)) for row in within_r]
    nearest = torch.tensor([row[0] if row else 0 for row in places])
    return Ranks(nearest, torch.tensor(padded), torch.tensor([len(row) for row in places]))


def recall_of_query(query, k):
    return float(any(query[:k]))


def r_precision_of_query(query):
    r = sum(query)
    return sum(query[:r]) / r if r else 0.0


def map_at_r_of_query(query):
    r = sum(query)
    hits = [sum(query[: i + 1]) / (i + 1) for i in range(r) if query[i]]
    return sum(hits) / r if r else 0.0


METRICS = {  # with its definition for one query
    "recall_at_1": (partial(recall_at, k=1), partial(recall_of_query, k=1)),
    "recall_at_3": (partial(recall_at, k=3), partial(recall_of_query, k=3)),
    "map_at_r": (RETRIEVAL["map_at_r"], map_at_r_of_query),
    "r_precision": (RETRIEVAL["r_precision"], r_precision_of_query),
}


@given(QUERIES)
def test_every_metric_equals_its_definition(queries):
    assert METRICS.keys() > RETRIEVAL.keys()
    ranks = make_ranks(queries)
    for name, (metric, definition) in METRICS.items():
        values = metric(ranks)
        assert values.dtype == torch.float64, name
        assert ((values >= 0) & (values <= 1)).all(), name
        assert values.tolist() == pytest.approx([*map(definition, queries)], abs=1e-12), name
    recalls = [recall_at(ranks, k).mean().item() for k in range(1, 8)]
    expected = [np.mean([recall_of_query(query, k) for query in queries]) for k in range(1, 8)]
    assert recalls == sorted(recalls) == pytest.approx(expected, abs=1e-12)
    assert (RETRIEVAL["map_at_r"](ranks) <= RETRIEVAL["r_precision"](ranks) + 1e-12).all()


def clustered(size, classes, dim, *, noise=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(size) % classes
    centers = torch.randn(classes, dim, generator=generator)
    return centers[labels] + noise * torch.randn(size, dim, generator=generator), labels


@pytest.mark.parametrize("queries", [None, 200])  # of 600; None: all, in all
def test_scores_equal_those_of_pytorch_metric_learning(queries):
    pytest.importorskip("faiss", reason="AccuracyCalculator ranks with it")
    library = pytest.importorskip("pytorch_metric_learning.utils.accuracy_calculator")
    names = ("precision_at_1", "mean_average_precision_at_r", "r_precision")
    for noise in (0.5, 2.0, 4.0):
        embeddings, labels = clustered(600, 70, 16, noise=noise)
        unit, masks, sides = l2_normalize(embeddings).float(), {}, ()
        if queries:
            query = torch.arange(600) < queries
            masks, sides = {"query": query, "gallery": ~query}, (query, ~query)
        calculator = library.AccuracyCalculator(
            include=names, k=None if queries else "max_bin_count"
        )
        arrays = [each[side] for side in sides for each in (unit, labels)] or [unit, labels]
        expected = calculator.get_accuracy(*arrays)
        found = retrieval_metrics(embeddings, labels, recall_at_k=[1], **masks).values
        assert list(found.values()) == pytest.approx([expected[name] for name in names], abs=1e-6)


def test_queries_without_positives_count_as_misses_and_are_reported():
    embeddings, labels = clustered(57, 19, 8, noise=0.01)
    alone, _ = clustered(3, 3, 8, seed=1)
    everything = torch.cat([embeddings, alone]), torch.cat([labels, torch.arange(100, 103)])
    found = retrieval_metrics(*everything, recall_at_k=[1])
    assert found.unanswerable_queries == 3 / 60
    assert found.values == pytest.approx(dict.fromkeys(found.values, 57 / 60))


def test_memory_and_dtype_and_other_metrics_change_no_score():
    embeddings, labels = clustered(1500, 150, 16, noise=2.0)
    expected = retrieval_metrics(embeddings, labels, recall_at_k=[1, 100]).values
    for dtype in (torch.bfloat16, torch.float32):
        options = {"recall_at_k": [1, 100], "memory_mib": 1, "dtype": dtype}
        assert retrieval_metrics(embeddings, labels, **options).values == expected
        found = retrieval_metrics(embeddings, labels, with_map_at_r=False, **options).values
        assert found == {name: expected[name] for name in ("recall_at_1", "recall_at_100")}


def test_the_share_of_recomputed_cosines_is_of_all():
    def share(*data, **options):
        return retrieval_metrics(*data, recall_at_k=[1], **options).recomputed_share

    data = clustered(300, 30, 8, noise=2.0)
    assert 0 <= share(*data, dtype=torch.float32) < share(*data, dtype=torch.bfloat16) < 0.1
    assert (
        share(torch.ones(40, 3), torch.arange(40) % 4) == 0
    )  # products of equal vectors are exact
    points = torch.eye(3)[torch.arange(60) // 2 % 3]  # ties that low precision cannot decide
    assert share(points, torch.arange(60) % 4, dtype=torch.bfloat16) > 0.05
