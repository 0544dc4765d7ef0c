import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

from heated.common.geometry import l2_normalize
from heated.evaluation.ranking import Ranks
from heated.evaluation.retrieval import RETRIEVAL, recall_at, retrieval, without_match

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
    within = [[rank for rank in row if rank <= len(row)] for row in places]
    padded = [row + [0] * (width - len(row)) for row in within]
    nearest = torch.tensor([row[0] if row else 0 for row in places])
    return Ranks(nearest, torch.tensor(padded), torch.tensor([len(row) for row in places]))


def mean(metric, queries):
    return metric(ranks(queries)).mean().item()


def recall_one_by_one(query, k):
    return float(any(query[:k]))


def r_precision_one_by_one(query):
    relevant = sum(query)
    return sum(query[:relevant]) / relevant if relevant else 0.0


def map_at_r_one_by_one(query):
    relevant = sum(query)
    hits = [sum(query[: i + 1]) / (i + 1) for i in range(relevant) if query[i]]
    return sum(hits) / relevant if relevant else 0.0


ONE_BY_ONE = {
    "r_precision": r_precision_one_by_one,
    "map_at_r": map_at_r_one_by_one,
    "recall_at_1": lambda query: recall_one_by_one(query, 1),
    "recall_at_3": lambda query: recall_one_by_one(query, 3),
}


@given(QUERIES)
def test_every_metric_equals_its_definition_written_out(queries):
    found = ranks(queries)
    for name, metric in METRICS.items():
        values = metric(found)
        assert values.dtype == torch.float64, name
        assert ((values >= 0) & (values <= 1)).all(), name
        assert values.tolist() == pytest.approx([*map(ONE_BY_ONE[name], queries)], abs=1e-12), name
    recalls = [recall_at(found, k).mean().item() for k in range(1, 8)]
    expected = [np.mean([recall_one_by_one(query, k) for query in queries]) for k in range(1, 8)]
    assert recalls == sorted(recalls) == pytest.approx(expected, abs=1e-12)
    assert (RETRIEVAL["map_at_r"](found) <= RETRIEVAL["r_precision"](found) + 1e-12).all()


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_by_hand(name):
    right, wrong, last = [True, False, False], [False, False, False], [False, False, False, True]
    assert mean(METRICS[name], [[True, True, False], right]) == 1
    assert mean(METRICS[name], [last, last]) == 0
    assert mean(METRICS[name], [right, wrong]) == 0.5  # no sample of its class: it counts
    queries = [[True, False, True, False], [False, True, False, False], last]
    assert mean(METRICS[name], queries) == mean(METRICS[name], queries[::-1])


# --- all of it together ----------------------------------------------------------------------


def clustered(size, classes, dim, *, noise=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(size) % classes
    centres = torch.randn(classes, dim, generator=generator)
    return centres[labels] + noise * torch.randn(size, dim, generator=generator), labels


def brute_force(embeddings, labels, ks, query, gallery):
    """Every score by sorting all of a query's gallery, in float64; of equal cosines (to 9 digits)
    the wrong class first."""
    unit, scores = l2_normalize(embeddings).numpy(), []
    for q in np.flatnonzero(query):
        others = np.array([g for g in np.flatnonzero(gallery) if g != q])
        right = (labels[others] == labels[q]).numpy()
        near = right[np.lexsort((right, -(unit[others] @ unit[q]).round(9)))].tolist()
        recalls = [recall_one_by_one(near, k) for k in ks]
        scores.append([*recalls, map_at_r_one_by_one(near), r_precision_one_by_one(near)])
    names = [*(f"recall_at_{k}" for k in ks), "map_at_r", "r_precision"]
    return dict(zip(names, np.mean(scores, axis=0).tolist(), strict=True))


@given(st.integers(0, 2**32), st.sampled_from([1, 2, 8]), st.booleans())
@settings(max_examples=150, deadline=None)
def test_every_score_equals_sorting_all_of_the_gallery(seed, dim, whole):
    random = np.random.default_rng(seed)
    size = int(random.integers(6, 40))
    embeddings = torch.from_numpy(random.integers(-3, 4, size=(size, dim))).double()
    embeddings[(embeddings == 0).all(dim=1)] = 1
    labels = torch.from_numpy(random.integers(0, size // 2, size=size))
    query = torch.from_numpy(random.random(size) < 0.5)
    query[0], query[1:5] = True, False
    masks = {"query": query | whole, "gallery": ~query | whole}
    expected = brute_force(embeddings, labels, [1, 3], **masks)
    found = retrieval(embeddings, labels, recall_at_k=[1, 3], **masks)
    assert found.values == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("queries", [None, 200])  # of 600; None: all, in all
def test_scores_equal_those_of_pytorch_metric_learning(queries):
    names = ("precision_at_1", "mean_average_precision_at_r", "r_precision")
    for noise in (0.5, 2.0, 4.0):
        embeddings, labels = clustered(600, 70, 16, noise=noise)
        unit, masks, sides = l2_normalize(embeddings).float(), {}, ()
        if queries:
            query = torch.arange(600) < queries
            masks, sides = {"query": query, "gallery": ~query}, (query, ~query)
        calculator = AccuracyCalculator(include=names, k=None if queries else "max_bin_count")
        given = [each[side] for side in sides for each in (unit, labels)] or [unit, labels]
        theirs = calculator.get_accuracy(*given)
        ours = retrieval(embeddings, labels, recall_at_k=[1], **masks).values
        assert list(ours.values()) == pytest.approx([theirs[name] for name in names], abs=1e-6)


def test_queries_without_a_match_count_as_misses_and_are_reported():
    embeddings, labels = clustered(57, 19, 8, noise=0.01)
    alone, _ = clustered(3, 3, 8, seed=1)
    everything = torch.cat([embeddings, alone]), torch.cat([labels, torch.arange(100, 103)])
    found = retrieval(*everything, recall_at_k=[1])
    assert found.without_match == 3 / 60
    assert without_match(ranks([[True, False], [False, False]])).tolist() == [0, 1]
    assert found.values == pytest.approx(dict.fromkeys(found.values, 57 / 60))


def test_memory_and_precision_of_the_screen_change_nothing():
    embeddings, labels = clustered(1500, 150, 16, noise=2.0)
    expected = retrieval(embeddings, labels, recall_at_k=[1, 100])
    for dtype in (torch.bfloat16, torch.float32):
        found = retrieval(embeddings, labels, recall_at_k=[1, 100], memory=1, dtype=dtype)
        assert found.values == expected.values


def test_recall_alone_is_the_same_recall():
    embeddings, labels = clustered(300, 30, 8, noise=2.0)
    every = retrieval(embeddings, labels, recall_at_k=[1, 5]).values
    alone = retrieval(embeddings, labels, recall_at_k=[1, 5], others=False).values
    assert alone == {name: every[name] for name in ("recall_at_1", "recall_at_5")}


def test_the_share_of_doubtful_cosines_is_of_all():
    embeddings, labels = clustered(300, 30, 8, noise=2.0)
    bfloat16, float32 = (
        retrieval(embeddings, labels, recall_at_k=[1], dtype=dtype).doubtful
        for dtype in (torch.bfloat16, torch.float32)
    )
    assert 0 <= float32 < bfloat16 < 0.1
    assert retrieval(torch.ones(40, 3), torch.arange(40) % 4, recall_at_k=[1]).doubtful > 0.7
