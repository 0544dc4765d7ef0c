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
@settings(max_examples=15, deadline=None)
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
    rows, expected = (
        [row for piece in each for row in piece.within.tolist()] for each in (many, one)
    )
    assert [[r for r in row if r] for row in rows] == [[r for r in row if r] for row in expected]


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


def test_embeddings_of_every_length_and_precision_are_taken():
    for scale in (1e-30, 1e-3, 1e30):
        embeddings = torch.tensor([[1.0, 0.0], [100.0, 1.0], [1.0, 0.5]]) * scale
        assert ranks(embeddings, torch.tensor([0, 0, 1]), deepest=1)[0] == (1, [1])
    embeddings, labels = clustered(100, 10, 8)
    for precision in (torch.float16, torch.bfloat16, torch.float64):
        expected = ranks(embeddings.to(precision).double(), labels, deepest=9)
        assert ranks(embeddings.to(precision), labels, deepest=9) == expected


BY_HAND = {  # embeddings, labels, deepest: (rank of the nearest, ranks within R) by query
    "a sample is never its own neighbour": (torch.eye(2), [0, 1], 1, {0: (0, []), 1: (0, [])}),
    "a duplicate of the query is found": (
        torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]),
        [0, 0, 1],
        2,
        {0: (1, [1]), 1: (1, [1]), 2: (0, [])},
    ),
    "of samples equally near, those of other classes stand first": (
        torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0], [0.0, 1.0]]),
        [0, 0, 1, 2],
        3,
        {0: (3, [])},
    ),
    "an embedding of length 0 is at right angles to everything": (
        torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 2.0], [-1.0, 1.0]]),
        [0, 0, 1, 2],
        3,
        {0: (2, [])},
    ),
    "what collapses finds its class after all others": (
        torch.ones(20, 3),
        [*range(4)] * 5,
        19,
        dict.fromkeys(range(20), (16, [])),
    ),
    "or not at all": (torch.ones(20, 3), [*range(4)] * 5, 15, dict.fromkeys(range(20), (0, []))),
}


@pytest.mark.parametrize("case", BY_HAND)
def test_by_hand(case):
    embeddings, labels, deepest, expected = BY_HAND[case]
    found_ranks = ranks(embeddings, torch.tensor(labels), deepest=deepest)
    assert {query: found_ranks[query] for query in expected} == expected


def test_samples_at_right_angles_to_the_query_are_a_tie():
    embeddings = torch.tensor([[0.0, 1.0]] * 11 + [[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0]])
    labels = torch.tensor([0] * 13 + [1])
    everything = torch.ones(14, dtype=torch.bool)
    expected = brute_force(embeddings, labels, everything, everything)
    assert ranks(embeddings, labels, deepest=13) == limited(expected, 13)


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


FOUR = torch.zeros(4, dtype=torch.int64)
REFUSED = {
    "nan": (torch.full((4, 3), torch.nan), FOUR, {}, "4 of 4 embeddings hold NaN or infinity"),
    "infinity": (torch.tensor([[1.0], [-torch.inf]]), FOUR[:2], {}, "1 of 2 embeddings hold NaN"),
    "a label too many": (torch.ones(3, 3), FOUR, {}, r"embeddings \(3, 3\) .* labels \(4,\)"),
    "no dimension": (torch.ones(4), FOUR, {}, r"embeddings \(4,\) .*allowed: .* \(N, D\) and"),
    "no sample": (torch.ones(0, 3), FOUR[:0], {}, r"labels \(N,\), N at least 1"),
    "whole numbers": (torch.ones(4, 3).long(), FOUR, {}, "of torch.int64 and.*: floating-point"),
    "no class numbers": (torch.ones(4, 3), FOUR.float(), {}, "of torch.float32; .* int64 labels"),
    "small labels": (torch.ones(4, 3), FOUR.int(), {}, "of torch.int32; allowed: .* int64 labels"),
    "no query": (torch.ones(4, 3), FOUR, {"query": FOUR.bool()}, "came 0 queries and 4 in the g"),
    "no gallery": (torch.ones(4, 3), FOUR, {"gallery": FOUR.bool()}, "4 queries and 0 in the gall"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_ranked_is_refused(case):
    embeddings, labels, masks, message = REFUSED[case]
    with pytest.raises(InputError, match=message):
        Neighbours(embeddings, labels, **masks, deepest=1)
