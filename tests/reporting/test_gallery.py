from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from heated.reporting.gallery import KINDS, NEAREST, ORDERS, chosen_of, gallery, scored


def drawn(seed, *, classes=6, size=4, dimensions=8, noise=1.0, apart=False):
    """Embeddings of noisy classes; where query and gallery are apart, each image is in one."""
    random = np.random.default_rng(seed)
    labels = random.permutation(np.repeat(np.arange(classes), size))
    centres = random.normal(size=(classes, dimensions))
    embeddings = centres[labels] + noise * random.normal(size=(len(labels), dimensions))
    query = random.random(len(labels)) < 0.5 if apart else np.ones(len(labels), bool)
    return {
        "embeddings": embeddings.astype(np.float32),
        "labels": labels,
        "query": query,
        "gallery": ~query if apart else query,
    }


def by_hand(arrays):
    """MAP@R of each query from a full sort, R, and all the gallery nearest first."""
    unit = arrays["embeddings"].astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    found = {}
    for query in np.flatnonzero(arrays["query"]):
        others = [n for n in np.flatnonzero(arrays["gallery"]) if n != query]
        others.sort(key=lambda n, query=query: -(unit[n] @ unit[query]))
        right = arrays["labels"][others] == arrays["labels"][query]
        relevant = int(right.sum())
        precision = np.cumsum(right) / np.arange(1, len(right) + 1)
        if relevant:
            score = float((precision * right)[:relevant].sum() / relevant)
            found[int(query)] = (score, relevant, [int(n) for n in others])
    return found


def test_scores_and_neighbours_are_those_of_a_full_sort(subtests):
    for apart, seed in product([False, True], range(3)):
        with subtests.test(apart=apart, seed=seed):
            arrays = drawn(seed, apart=apart)
            expected = by_hand(arrays)
            for shown in gallery(arrays, count=3, memory=16):
                score, _, others = expected[shown.query]
                assert shown.score == pytest.approx(score)
                assert shown.nearest == others[:NEAREST]
                same = arrays["labels"][shown.nearest] == arrays["labels"][shown.query]
                assert shown.right == same.tolist()


@pytest.mark.parametrize("seed", range(3))
def test_best_and_worst_are_the_extremes_and_typical_is_next_to_the_median(seed):
    arrays = drawn(seed)
    scores = {query: score for query, (score, _, _) in by_hand(arrays).items()}
    first = {}
    for shown in gallery(arrays, count=2, memory=16):
        first.setdefault(shown.kind, shown.score)
    assert first["best"] == pytest.approx(max(scores.values()))
    assert first["worst"] == pytest.approx(min(scores.values()))
    median = np.median([*scores.values()])
    nearest = min(abs(score - median) for score in scores.values())
    assert abs(first["typical"] - median) == pytest.approx(nearest)


def test_as_many_of_each_kind_are_shown_as_asked_for_of_different_classes():
    arrays = drawn(0)
    for count in (1, 3, 6):
        found = gallery(arrays, count=count, memory=16)
        assert [shown.kind for shown in found] == [kind for kind in KINDS for _ in range(count)]
        for kind in KINDS:
            classes = [arrays["labels"][shown.query] for shown in found if shown.kind == kind]
            assert len(set(classes)) == count


def test_where_classes_are_too_few_others_of_them_follow():
    arrays = drawn(0, classes=2)
    found = [shown for shown in gallery(arrays, count=5, memory=16) if shown.kind == "best"]
    assert len({shown.query for shown in found}) == 5
    assert {arrays["labels"][shown.query] for shown in found[:2]} == {0, 1}


def test_a_query_is_not_its_own_neighbour_and_only_the_gallery_is_looked_through():
    arrays = drawn(1, apart=True)
    for shown in gallery(arrays, count=3, memory=16):
        assert arrays["query"][shown.query]
        assert arrays["gallery"][shown.nearest].all()
    for shown in gallery(drawn(1), count=3, memory=16):
        assert shown.query not in shown.nearest


def test_a_query_that_nothing_matches_is_left_out():
    arrays = drawn(2)
    lonely = int(np.flatnonzero(arrays["labels"] == 0)[0])
    arrays["labels"][lonely] = 99
    queries, _, _ = scored({k: torch.from_numpy(v) for k, v in arrays.items()}, 16)
    assert lonely not in queries
    assert len(queries) == len(arrays["labels"]) - 1


def test_equal_queries_are_ordered_by_the_size_of_their_class_then_by_number():
    scores = np.array([1.0, 1.0, 1.0, 0.0, 0.0])
    queries, relevant = np.array([4, 5, 7, 8, 9]), np.array([2, 3, 3, 1, 2])
    ordered = {kind: queries[order(queries, scores, relevant)] for kind, order in ORDERS.items()}
    assert ordered["best"].tolist() == [5, 7, 4, 9, 8]
    assert ordered["worst"].tolist() == [9, 8, 5, 7, 4]


@given(st.integers(0, 2**32 - 1), st.integers(1, 64))
def test_the_gallery_is_the_same_when_chosen_twice_and_with_any_memory(seed, memory):
    arrays = drawn(seed % 5)
    assert gallery(arrays, count=2, memory=memory) == gallery(arrays, count=2, memory=16)


def test_embeddings_that_are_all_alike_have_a_gallery_too():
    arrays = drawn(0)
    arrays["embeddings"][:] = 1
    found = gallery(arrays, count=2, memory=16)
    assert {shown.score for shown in found} == {0.0}
    assert not any(right for shown in found for right in shown.right)  # ties count against it


def test_the_first_of_each_class_come_before_the_second_of_any():
    labels = np.array([0, 0, 1, 1, 2])
    order = np.arange(5)
    assert chosen_of(order, order, labels, 4) == [0, 2, 4, 1]
