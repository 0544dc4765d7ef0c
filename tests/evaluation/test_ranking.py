from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from heated.common.errors import InputError
from heated.evaluation.ranking import Neighbours

DTYPES = st.sampled_from([torch.bfloat16, torch.float32])


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
    """A list of ranks a query, by its number, sample by sample in float64; 9 digits tell all small
    cosines apart, and hold what is equal together."""
    vectors = embeddings.double().numpy()
    unit = vectors / np.sqrt((vectors**2).sum(axis=1, keepdims=True))
    labels, others = labels.tolist(), np.flatnonzero(gallery)
    found = {}
    for q in np.flatnonzero(query):
        cosines = (unit[others] @ unit[q]).round(9).tolist()
        near = {g: c for g, c in zip(others.tolist(), cosines, strict=True) if g != q}
        right = sorted((near[g] for g in near if labels[g] == labels[q]), reverse=True)
        wrong = [near[g] for g in near if labels[g] != labels[q]]
        found[int(q)] = [i + 1 + sum(w >= r for w in wrong) for i, r in enumerate(right)]
    return found


def found(embeddings, labels, **options):
    """{query: (rank of the nearest, ranks within R)}, and how many cosines were in doubt."""
    searched = Neighbours(embeddings, labels, **options)
    ranks, doubtful = {}, 0
    for block in searched.blocks():
        piece = searched.ranks(block)
        within = [[rank for rank in row if rank] for row in piece.within.tolist()]
        rows = zip(piece.nearest.tolist(), within, strict=True)
        ranks |= dict(zip(searched.queries.sample[block].tolist(), rows, strict=True))
        doubtful += piece.doubtful
    return ranks, doubtful


def ranks(embeddings, labels, **options):
    return found(embeddings, labels, **options)[0]


def limited(ranks, deepest):
    """What is asked for of each query's ranks of all same-class samples."""
    return {
        query: (
            next((rank for rank in row[:1] if rank <= deepest), 0),
            [rank for rank in row if rank <= len(row)],
        )
        for query, row in ranks.items()
    }


def clustered(size, classes, dim, *, noise=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (size,), generator=generator)
    centres = torch.randn(classes, dim, generator=generator)
    return centres[labels] + noise * torch.randn(size, dim, generator=generator), labels


@given(cases(), st.integers(1, 16), DTYPES)
@settings(max_examples=300, deadline=None)
def test_ranks_equal_counting_sample_by_sample(case, deepest, dtype):
    embeddings, labels, masks = case
    expected = limited(brute_force(embeddings, labels, **masks), deepest)
    assert ranks(embeddings, labels, **masks, deepest=deepest, dtype=dtype) == expected


def test_ranks_equal_counting_among_hundreds(subtests):
    sizes = [(400, 80, 64), (300, 3, 16), (400, 200, 2), (200, 1, 8), (300, 40, 1), (500, 60, 3)]
    for size, classes, dim in sizes:
        embeddings, labels = clustered(size, classes, dim)
        everything = torch.ones(size, dtype=torch.bool)
        every = brute_force(embeddings, labels, everything, everything)
        for dtype, deepest in product([torch.bfloat16, torch.float32], (1, 10, size - 1)):
            with subtests.test(dtype=dtype, size=size, classes=classes, dim=dim, deepest=deepest):
                found_ranks = ranks(embeddings, labels, deepest=deepest, dtype=dtype)
                assert found_ranks == limited(every, deepest)


def test_what_is_too_near_for_the_screen_is_decided():
    # cosines to the query differ by less than bfloat16 tells apart, and by more than the grid does
    angles = torch.tensor([0.0, 0.5, 0.5 - 1e-6, 0.5 - 2e-6, 0.5 + 1e-6], dtype=torch.float64)
    embeddings = torch.stack([angles.cos(), angles.sin()], dim=1)
    labels = torch.tensor([0, 0, 1, 2, 3])
    ranked, doubtful = found(embeddings, labels, deepest=4, dtype=torch.bfloat16)
    assert ranked[0] == (3, [])
    assert doubtful > 0


def test_well_separated_samples_are_settled_by_the_screen():
    embeddings, labels = clustered(600, 60, 64, noise=0.2)
    for dtype in (torch.bfloat16, torch.float32):
        ranked, doubtful = found(embeddings, labels, deepest=10, dtype=dtype)
        assert doubtful == 0
        assert {nearest for nearest, _ in ranked.values()} == {1}


@given(cases(), DTYPES)
@settings(max_examples=50, deadline=None)
def test_memory_changes_nothing(case, dtype):
    embeddings, labels, masks = case
    size = 64
    generator = torch.Generator().manual_seed(len(labels))
    order = torch.randint(len(labels), (size,), generator=generator)
    case = embeddings[order], labels[order]
    whole = Neighbours(*case, deepest=20, dtype=dtype)
    parts = Neighbours(*case, deepest=20, dtype=dtype)
    parts.rows, parts.portion = 7, 1
    one = [whole.ranks(block) for block in whole.blocks()]
    many = [parts.ranks(block) for block in parts.blocks()]
    assert (len(one), len(many)) == (1, 10)
    for name in ("nearest", "relevant"):
        expected = torch.cat([getattr(piece, name) for piece in one])
        assert torch.equal(torch.cat([getattr(piece, name) for piece in many]), expected)
    within = [row for piece in many for row in piece.within.tolist()]
    assert [[r for r in row if r] for row in within] == [
        [r for r in row if r] for row in one[0].within.tolist()
    ]


def test_memory_bounds_the_block():
    embeddings, labels = clustered(3000, 500, 8)
    small = Neighbours(embeddings, labels, deepest=1, memory=1)
    large = Neighbours(embeddings, labels, deepest=1, memory=128)
    buffers = [s.screen.products.nbytes + s.screen.maxima.nbytes for s in (small, large)]
    assert buffers[0] <= 2**20
    assert large.rows == 3000
    assert ranks(embeddings, labels, deepest=9, memory=1) == ranks(embeddings, labels, deepest=9)


@given(cases(), st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_the_order_of_samples_does_not_matter(case, random):
    embeddings, labels, masks = case
    order = list(range(len(labels)))
    random.shuffle(order)
    shuffled = {name: mask[order] for name, mask in masks.items()}
    before = ranks(embeddings, labels, **masks, deepest=9)
    after = ranks(embeddings[order], labels[order], **shuffled, deepest=9)
    assert {order[query]: row for query, row in after.items()} == before


def test_only_the_nearest_is_ranked_where_the_others_are_not_wanted():
    embeddings, labels = clustered(300, 30, 8)
    every = ranks(embeddings, labels, deepest=40)
    first = ranks(embeddings, labels, deepest=40, within=False)
    assert {q: nearest for q, (nearest, _) in first.items()} == {
        q: nearest for q, (nearest, _) in every.items()
    }


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e30])
def test_nearness_is_of_directions_not_of_lengths(scale):
    embeddings = torch.tensor([[1.0, 0.0], [100.0, 1.0], [1.0, 0.5]]) * scale
    assert ranks(embeddings, torch.tensor([0, 0, 1]), deepest=1)[0] == (1, [1])


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16, torch.float64])
def test_embeddings_of_every_precision_are_taken(precision):
    embeddings, labels = clustered(100, 10, 8)
    expected = ranks(embeddings.to(precision).double(), labels, deepest=9)
    assert ranks(embeddings.to(precision), labels, deepest=9) == expected


def test_samples_at_right_angles_to_the_query_are_a_tie():
    embeddings = torch.tensor([[0.0, 1.0]] * 11 + [[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0]])
    labels = torch.tensor([0] * 13 + [1])
    everything = torch.ones(14, dtype=torch.bool)
    expected = brute_force(embeddings, labels, everything, everything)
    assert ranks(embeddings, labels, deepest=13) == limited(expected, 13)


def test_a_sample_is_never_its_own_neighbour():
    assert ranks(torch.eye(2), torch.tensor([0, 1]), deepest=1) == {0: (0, []), 1: (0, [])}


def test_a_duplicate_of_the_query_is_found_though_the_query_is_not():
    embeddings = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    labels = torch.tensor([0, 0, 1])
    expected = {0: (1, [1]), 1: (1, [1]), 2: (0, [])}
    assert ranks(embeddings, labels, deepest=2) == expected


def test_of_samples_equally_near_those_of_other_classes_stand_first():
    embeddings = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0], [0.0, 1.0]])
    assert ranks(embeddings, torch.tensor([0, 0, 1, 2]), deepest=3)[0] == (3, [])


def test_an_embedding_of_length_0_is_at_right_angles_to_everything():
    embeddings = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 2.0], [-1.0, 1.0]])
    assert ranks(embeddings, torch.tensor([0, 0, 1, 2]), deepest=3)[0] == (2, [])


def test_a_collapsed_embedding_finds_its_class_after_all_others():
    labels = torch.arange(20) % 4
    collapsed = ranks(torch.ones(20, 3), labels, deepest=19)
    assert set(collapsed) == set(range(20))
    assert all(row == (16, []) for row in collapsed.values())
    assert all(row == (0, []) for row in ranks(torch.ones(20, 3), labels, deepest=15).values())


def test_a_query_outside_the_gallery_counts_every_sample_of_its_class():
    embeddings, labels = torch.ones(3, 2), torch.tensor([0, 0, 0])
    query = torch.tensor([True, False, False])
    searched = Neighbours(embeddings, labels, query=query, gallery=~query, deepest=1)
    piece = searched.ranks(searched.blocks()[0])
    assert piece.within.tolist() == [[1, 2]]
    assert piece.relevant.tolist() == [2]


def test_a_query_whose_class_the_gallery_lacks_has_no_ranks():
    query = torch.tensor([True, False, False])
    masks = {"query": query, "gallery": ~query}
    for own in (0, 5, 9):
        labels = torch.tensor([own, 3, 7])
        assert ranks(torch.ones(3, 2), labels, **masks, deepest=1) == {0: (0, [])}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_ranks_as_the_cpu_does(dtype):
    for size, classes, dim in ((2000, 400, 64), (1000, 5, 2)):
        embeddings, labels = clustered(size, classes, dim)
        here = ranks(embeddings, labels, deepest=100)
        there = ranks(embeddings.cuda(), labels.cuda(), deepest=100, dtype=dtype)
        assert there == here


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_embeddings_that_are_not_finite_are_refused_with_their_number(wrong):
    embeddings = torch.ones(4, 3)
    embeddings[2] = wrong
    with pytest.raises(InputError, match="1 of 4 embeddings hold NaN or infinity"):
        Neighbours(embeddings, torch.zeros(4, dtype=torch.int64), deepest=1)


@pytest.mark.parametrize(("shape", "labels"), [((4, 3), 5), ((4,), 4), ((0, 3), 0)])
def test_embeddings_and_labels_that_do_not_fit_are_refused_with_their_shapes(shape, labels):
    with pytest.raises(InputError, match=rf"labels \({labels},\); allowed: \(N, D\) and \(N,\)"):
        Neighbours(torch.ones(shape), torch.zeros(labels, dtype=torch.int64), deepest=1)


@pytest.mark.parametrize("empty", ["query", "gallery"])
def test_an_empty_side_is_refused(empty):
    masks = {empty: torch.zeros(4, dtype=torch.bool)}
    with pytest.raises(InputError, match="queries and . in the gallery"):
        Neighbours(torch.ones(4, 3), torch.zeros(4, dtype=torch.int64), **masks, deepest=1)


@pytest.mark.parametrize(
    ("embeddings", "labels", "came"),
    [
        (torch.ones(4, 3, dtype=torch.int64), torch.zeros(4, dtype=torch.int64), "torch.int64 and"),
        (torch.ones(4, 3), torch.zeros(4), "labels of torch.float32"),
        (torch.ones(4, 3), torch.zeros(4, dtype=torch.int32), "labels of torch.int32"),
    ],
)
def test_what_is_not_floating_point_or_not_a_class_number_is_refused(embeddings, labels, came):
    with pytest.raises(InputError, match=f"{came}.*allowed: floating-point embeddings and int64"):
        Neighbours(embeddings, labels, deepest=1)
