import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from heated.errors import InputError
from heated.neighbours import same_class_ranks
from heated.retrieval import recall_at


@st.composite
def cases(draw):
    """Embeddings of small whole numbers, so that there are ties, duplicates and right angles, with
    masks."""
    size, dim = draw(st.integers(2, 14)), draw(st.sampled_from([1, 3]))
    whole = st.lists(st.integers(-2, 2), min_size=dim, max_size=dim).filter(any)
    flags = st.lists(st.booleans(), min_size=size, max_size=size).filter(any)
    rows = draw(st.lists(whole, min_size=size, max_size=size))
    labels = draw(st.lists(st.integers(0, 4), min_size=size, max_size=size))
    query = draw(flags)
    kind = draw(st.sampled_from(["overlapping", "disjoint", "all"]))
    gallery = draw(flags) if kind == "overlapping" else [not q for q in query]
    if kind == "all" or not any(gallery):
        query = gallery = [True] * size
    return (
        torch.tensor(rows, dtype=torch.float32),
        torch.tensor(labels),
        {"query": torch.tensor(query), "gallery": torch.tensor(gallery)},
    )


def brute_force(embeddings, labels, query, gallery):
    """A list of ranks a query, sample by sample in float64; 9 digits tell all small cosines apart,
    and hold what is equal together."""
    vectors = embeddings.double().numpy()
    unit = vectors / np.sqrt((vectors**2).sum(axis=1, keepdims=True))
    found = []
    for q in np.flatnonzero(query):
        near = {g: round(float(unit[q] @ unit[g]), 9) for g in np.flatnonzero(gallery) if g != q}
        right = sorted((near[g] for g in near if labels[g] == labels[q]), reverse=True)
        wrong = [near[g] for g in near if labels[g] != labels[q]]
        found.append([i + 1 + sum(w >= r for w in wrong) for i, r in enumerate(right)])
    return found


def written_out(found):
    return [[rank for rank in row if rank] for row in found.ranks.tolist()]


@given(cases())
@settings(max_examples=150, deadline=None)
def test_ranks_equal_counting_sample_by_sample(case):
    embeddings, labels, masks = case
    expected = brute_force(embeddings, labels, **masks)
    found = same_class_ranks(embeddings, labels, **masks)
    assert written_out(found) == expected
    assert found.relevant.tolist() == [len(ranks) for ranks in expected]
    assert found.ranks.shape == (len(expected), max(1, *map(len, expected), 0))


@given(cases(), st.integers(1, 5))
@settings(max_examples=50, deadline=None)
def test_the_block_size_changes_nothing(case, block):
    embeddings, labels, masks = case
    whole = same_class_ranks(embeddings, labels, **masks)
    parts = same_class_ranks(embeddings, labels, **masks, block=block)
    assert torch.equal(whole.ranks, parts.ranks)
    assert torch.equal(whole.relevant, parts.relevant)


@given(cases(), st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_the_order_of_samples_does_not_matter(case, random):
    embeddings, labels, masks = case
    order = list(range(len(labels)))
    random.shuffle(order)
    shuffled = {name: mask[order] for name, mask in masks.items()}
    before = same_class_ranks(embeddings, labels, **masks)
    after = same_class_ranks(embeddings[order], labels[order], **shuffled)
    queries = torch.nonzero(masks["query"])[:, 0].tolist()
    places = [queries.index(i) for i in order if i in queries]
    assert torch.equal(after.ranks, before.ranks[places])
    assert torch.equal(after.relevant, before.relevant[places])


@given(cases(), st.integers(1, 4))
@settings(max_examples=50, deadline=None)
def test_nearest_gives_the_first_columns(case, nearest):
    embeddings, labels, masks = case
    every = same_class_ranks(embeddings, labels, **masks)
    first = same_class_ranks(embeddings, labels, **masks, nearest=nearest)
    assert torch.equal(first.ranks, every.ranks[:, :nearest])
    assert torch.equal(first.relevant, every.relevant)


def test_ranks_of_real_valued_embeddings_equal_counting_over_several_blocks():
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(120, 8, generator=generator)
    labels = torch.randint(6, (120,), generator=generator)
    everything = torch.ones(120, dtype=torch.bool)
    found = same_class_ranks(embeddings, labels, block=50)
    assert written_out(found) == brute_force(embeddings, labels, everything, everything)


def test_nearness_is_of_directions_not_of_lengths():
    embeddings = torch.tensor([[1.0, 0.0], [100.0, 1.0], [1.0, 0.5]])
    assert same_class_ranks(embeddings, torch.tensor([0, 0, 1])).ranks[0].tolist() == [1]


def test_samples_at_right_angles_to_the_query_are_a_tie():
    embeddings = torch.tensor([[0.0, 1.0]] * 11 + [[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0]])
    labels = torch.tensor([0] * 13 + [1])
    everything = torch.ones(14, dtype=torch.bool)
    found = same_class_ranks(embeddings, labels)
    assert written_out(found) == brute_force(embeddings, labels, everything, everything)


def test_a_sample_is_never_its_own_neighbour():
    found = same_class_ranks(torch.eye(2), torch.tensor([0, 1]))
    assert found.ranks.tolist() == [[0], [0]]
    assert found.relevant.tolist() == [0, 0]


def test_a_duplicate_of_the_query_is_found_though_the_query_is_not():
    embeddings = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert same_class_ranks(embeddings, torch.tensor([0, 0, 1])).ranks.tolist() == [[1], [1], [0]]


def test_of_samples_equally_near_those_of_other_classes_stand_first():
    embeddings = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0], [0.0, 1.0]])
    found = same_class_ranks(embeddings, torch.tensor([0, 0, 1, 2]))
    assert found.ranks[0].tolist() == [3]


def test_a_collapsed_embedding_scores_no_recall_before_all_wrong_samples_are_counted():
    labels = torch.arange(20) % 4
    found = same_class_ranks(torch.ones(20, 3), labels)
    assert [recall_at(found, k) for k in (1, 2, 4, 15)] == [0, 0, 0, 0]
    assert recall_at(found, 16) == 1


def test_a_query_outside_the_gallery_counts_every_sample_of_its_class():
    embeddings, labels = torch.ones(3, 2), torch.tensor([0, 0, 0])
    query = torch.tensor([True, False, False])
    found = same_class_ranks(embeddings, labels, query=query, gallery=~query)
    assert found.ranks.tolist() == [[1, 2]]
    assert found.relevant.tolist() == [2]


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_embeddings_that_are_not_finite_are_refused_with_their_number(wrong):
    embeddings = torch.ones(4, 3)
    embeddings[2] = wrong
    with pytest.raises(InputError, match="1 of 4 embeddings hold NaN or infinity"):
        same_class_ranks(embeddings, torch.zeros(4, dtype=torch.int64))


@pytest.mark.parametrize(("shape", "labels"), [((4, 3), 5), ((4,), 4), ((0, 3), 0)])
def test_embeddings_and_labels_that_do_not_fit_are_refused_with_their_shapes(shape, labels):
    with pytest.raises(InputError, match=rf"labels \({labels},\); allowed: \(N, D\) and \(N,\)"):
        same_class_ranks(torch.ones(shape), torch.zeros(labels, dtype=torch.int64))


@pytest.mark.parametrize("empty", ["query", "gallery"])
def test_an_empty_side_is_refused(empty):
    masks = {empty: torch.zeros(4, dtype=torch.bool)}
    with pytest.raises(InputError, match="queries and . in the gallery"):
        same_class_ranks(torch.ones(4, 3), torch.zeros(4, dtype=torch.int64), **masks)
