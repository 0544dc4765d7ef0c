from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from heated.common.errors import InputError
from heated.evaluation.negative_counts import maximum_by_halves
from heated.evaluation.ranking import NeighborSearch, mask_positives

# side of the tiles, and gallery samples per chunk; by default as memory allows, mostly one tile
LAYOUTS = [{}, {"tile": 32, "width": 4}, {"tile": 64, "width": 32}, {"tile": 96, "width": 1}]
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
    """All ranks by query, sample by sample in float64."""
    vectors = embeddings.double().numpy()
    lengths = np.sqrt((vectors**2).sum(axis=1, keepdims=True))
    unit = vectors / np.where(lengths == 0, 1, lengths)
    labels, indices = labels.tolist(), np.flatnonzero(gallery)
    found = {}
    for q in np.flatnonzero(query):
        cosines = np.rint(unit[indices] @ unit[q] * 2**32).tolist()
        near = {g: c for g, c in zip(indices.tolist(), cosines, strict=True) if g != q}
        positives = sorted((near[g] for g in near if labels[g] == labels[q]), reverse=True)
        negatives = [near[g] for g in near if labels[g] != labels[q]]
        found[int(q)] = [i + 1 + sum(n >= p for n in negatives) for i, p in enumerate(positives)]
    return found


def collect(search):
    """{query: (rank of the nearest, ranks within R)}, and the number of recomputed cosines."""
    ranks, num_recomputed = {}, 0
    for block in search.blocks:
        piece = search.ranks(block)
        within_r = [[rank for rank in row if rank] for row in piece.within_r.tolist()]
        rows = zip(piece.nearest.tolist(), within_r, strict=True)
        ranks |= dict(zip(search.queries.index[block].tolist(), rows, strict=True))
        num_recomputed += piece.num_recomputed
    return ranks, num_recomputed


def rank(embeddings, labels, *, tile=None, width=None, **options):
    search = NeighborSearch(embeddings, labels, **options)
    search.tile, search.width = tile or search.tile, width or search.width
    return collect(search)[0]


def limited(ranks, max_k):
    """The ranks that a search up to `max_k` returns, from all ranks."""
    return {
        query: (
            next((rank for rank in row[:1] if rank <= max_k), 0),
            [rank for rank in row if rank <= len(row)],
        )
        for query, row in ranks.items()
    }


def clustered(size, classes, dim, *, noise=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (size,), generator=generator)
    centers = torch.randn(classes, dim, generator=generator)
    return centers[labels] + noise * torch.randn(size, dim, generator=generator), labels


@given(cases(), st.integers(1, 16), DTYPES)
@settings(max_examples=300, deadline=None)
def test_ranks_equal_counting_sample_by_sample(case, max_k, dtype):
    embeddings, labels, masks = case
    expected = limited(brute_force(embeddings, labels, **masks), max_k)
    assert rank(embeddings, labels, **masks, max_k=max_k, dtype=dtype) == expected


def test_ranks_equal_counting_among_hundreds(subtests):
    sizes = [(400, 80, 64), (300, 3, 16), (400, 200, 2), (200, 1, 8), (300, 40, 1), (500, 60, 3)]
    for size, classes, dim in sizes:
        embeddings, labels = clustered(size, classes, dim)
        everything = torch.ones(size, dtype=torch.bool)
        every = brute_force(embeddings, labels, everything, everything)
        for dtype, max_k in product([torch.bfloat16, torch.float32], (1, 10, size - 1)):
            for layout in LAYOUTS:
                with subtests.test(dtype=dtype, size=size, dim=dim, max_k=max_k, **layout):
                    found = rank(embeddings, labels, max_k=max_k, dtype=dtype, **layout)
                    assert found == limited(every, max_k)


@st.composite
def sets(draw):
    """Hundreds of embeddings in many tiles: easy, hard, collapsed, with duplicates and masks."""
    size, classes = draw(st.integers(70, 200)), draw(st.sampled_from([1, 2, 7, 30, 150]))
    seed, noise = draw(st.integers(0, 2**16)), draw(st.sampled_from([0.0, 0.3, 1.0, 3.0]))
    embeddings, labels = clustered(size, classes, draw(st.sampled_from([2, 8])), noise=noise)
    generator = torch.Generator().manual_seed(seed)
    kind = draw(st.sampled_from(["any", "duplicates", "points", "near", "one point", "integers"]))
    if kind == "duplicates":
        embeddings = embeddings[torch.randint(size // 2, (size,), generator=generator)]
    elif kind == "points":
        embeddings = embeddings[torch.randint(4, (size,), generator=generator)]
    elif kind in ("near", "one point"):
        embeddings = 3 + embeddings * (1e-4 if kind == "near" else 0)
    elif kind == "integers":
        embeddings = embeddings.round()
    embeddings = embeddings.to(
        draw(st.sampled_from([torch.float16, torch.bfloat16, torch.float32]))
    )
    query = gallery = torch.ones(size, dtype=torch.bool)
    if draw(st.booleans()):
        query, gallery = (torch.rand(2, size, generator=generator) < 0.6).unbind()
        query[0] = gallery[1] = True
        gallery = query if draw(st.booleans()) else gallery
    return embeddings, labels, {"query": query, "gallery": gallery}


@given(sets(), st.sampled_from([1, 10, 1000]), st.sampled_from(LAYOUTS[1:]))
@settings(max_examples=150, deadline=None)
def test_ranks_equal_counting_in_many_tiles(case, max_k, layout):
    embeddings, labels, masks = case
    every = brute_force(embeddings, labels, **masks)
    for dtype in (torch.bfloat16, torch.float32):
        ranked = rank(embeddings, labels, **masks, max_k=max_k, dtype=dtype, **layout)
        assert ranked == limited(every, max_k)
        options = {**masks, "max_k": max_k, "dtype": dtype, "rank_all_positives": False}
        recall = rank(embeddings, labels, **options, **layout)
        assert {q: row[0] for q, row in recall.items()} == {q: row[0] for q, row in ranked.items()}


def test_only_cosines_that_low_precision_cannot_tell_apart_are_recomputed():
    angles = torch.tensor([0.0, 0.5, 0.5 - 1e-6, 0.5 - 2e-6, 0.5 + 1e-6], dtype=torch.float64)
    embeddings = torch.stack([angles.cos(), angles.sin()], dim=1)
    labels = torch.tensor([0, 0, 1, 2, 3])
    search = NeighborSearch(embeddings, labels, max_k=4, dtype=torch.bfloat16)
    ranked, num_recomputed = collect(search)
    assert ranked[0] == (3, [])
    assert num_recomputed > 0
    for dtype in (torch.bfloat16, torch.float32):
        separated = clustered(600, 60, 64, noise=0.2)
        ranked, num_recomputed = collect(NeighborSearch(*separated, max_k=10, dtype=dtype))
        assert num_recomputed == 0
        assert {nearest for nearest, _ in ranked.values()} == {1}


@given(cases(), DTYPES)
@settings(max_examples=15, deadline=None)
def test_the_size_of_blocks_changes_nothing(case, dtype):
    embeddings, labels, _ = case
    generator = torch.Generator().manual_seed(len(labels))
    order = torch.randint(len(labels), (64,), generator=generator)
    whole, parts = (
        NeighborSearch(embeddings[order], labels[order], max_k=20, dtype=dtype) for _ in range(2)
    )
    parts.blocks = [slice(start, start + 7) for start in range(0, 64, 7)]
    parts.tile = 32
    assert len(whole.blocks) == 1
    assert collect(parts)[0] == collect(whole)[0]


def test_memory_bounds_tiles_and_blocks():
    embeddings, labels = clustered(3000, 500, 8)
    small, large = (
        NeighborSearch(embeddings, labels, max_k=9, memory_mib=memory) for memory in (1, 128)
    )
    assert small.tile < large.tile
    assert len(small.blocks) > len(large.blocks) == 1
    assert collect(small)[0] == collect(large)[0]


def test_embeddings_of_every_length_and_precision_are_accepted():
    for scale in (1e-30, 1e-3, 1e30):
        embeddings = torch.tensor([[1.0, 0.0], [100.0, 1.0], [1.0, 0.5]]) * scale
        assert rank(embeddings, torch.tensor([0, 0, 1]), max_k=1)[0] == (1, [1])
    embeddings, labels = clustered(100, 10, 8)
    for precision in (torch.float16, torch.bfloat16, torch.float64):
        expected = rank(embeddings.to(precision).double(), labels, max_k=9)
        assert rank(embeddings.to(precision), labels, max_k=9) == expected


COLLAPSED = (torch.ones(20, 3), [*range(4)] * 5)
BY_HAND = {  # embeddings, labels, max_k, {query: (rank of the nearest, ranks within R)}
    "never its own neighbor": (torch.eye(2), [0, 1], 1, {0: (0, []), 1: (0, [])}),
    "a duplicate": ([[1, 0], [1, 0], [0, 1]], [0, 0, 1], 2, {0: (1, [1]), 1: (1, [1]), 2: (0, [])}),
    "a tie": ([[1, 0], [0, 1], [0, -1], [0, 1]], [0, 0, 1, 2], 3, {0: (3, [])}),
    "length 0": ([[1, 0], [0, 0], [0, 2], [-1, 1]], [0, 0, 1, 2], 3, {0: (2, [])}),
    "collapsed": (*COLLAPSED, 19, dict.fromkeys(range(20), (16, []))),
    "collapsed, beyond max_k": (*COLLAPSED, 15, dict.fromkeys(range(20), (0, []))),
}


@pytest.mark.parametrize("case", BY_HAND)
def test_by_hand(case):
    embeddings, labels, max_k, expected = BY_HAND[case]
    found = rank(torch.as_tensor(embeddings).float(), torch.tensor(labels), max_k=max_k)
    assert {query: found[query] for query in expected} == expected


def test_a_query_outside_the_gallery_counts_every_sample_of_its_class():
    query = torch.tensor([True, False, False])
    masks = {"query": query, "gallery": ~query}
    search = NeighborSearch(torch.ones(3, 2), torch.tensor([0, 0, 0]), **masks, max_k=1)
    assert search.queries.num_positives.tolist() == [2]
    assert collect(search)[0] == {0: (1, [1, 2])}


ONES, ZEROS = torch.ones(4, 3), torch.zeros(4, dtype=torch.int64)
INVALID = {
    "nan": (ONES * torch.nan, ZEROS, "got NaN or infinity in 4 of 4"),
    "infinity": (torch.tensor([[1.0], [-torch.inf]]), ZEROS[:2], "got NaN or infinity in 1 of 2"),
    "a label too many": (ONES[:3], ZEROS, r"got \(3, 3\) of torch.float32 and \(4,\)"),
    "no dimension": (ONES[:, 0], ZEROS, r"got \(4,\) of .*expected .* \(N, D\) and"),
    "no sample": (ONES[:0], ZEROS[:0], r"labels \(N,\), N at least 1"),
    "whole numbers": (ONES.long(), ZEROS, "of torch.int64 and.*expected floating-point"),
    "no class numbers": (ONES, ZEROS.float(), "of torch.float32, expected .* int64 labels"),
    "small labels": (ONES, ZEROS.int(), "of torch.int32, expected .* int64 labels"),
}


@pytest.mark.parametrize("case", INVALID)
def test_invalid_arguments_raise(case):
    embeddings, labels, message = INVALID[case]
    with pytest.raises(InputError, match=message):
        NeighborSearch(embeddings, labels, max_k=1)


def test_finite_embeddings_whose_sum_overflows_are_ranked():
    embeddings = torch.full((4, 3), 60_000.0, dtype=torch.float16)
    assert collect(NeighborSearch(embeddings, ZEROS, max_k=1))[0][0] == (1, [1, 2, 3])


def test_an_empty_query_or_gallery_raises():
    for mask, message in (("query", "got 0 queries and 4"), ("gallery", "4 queries and 0 gallery")):
        with pytest.raises(InputError, match=message):
            NeighborSearch(ONES, ZEROS, **{mask: ZEROS.bool()}, max_k=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1, 2, 8, 32])
def test_maxima_by_halves_are_the_maxima(dtype, size):
    values = torch.randn(64, 64 * size, generator=torch.Generator().manual_seed(size)).to(dtype)
    values[:, ::3] = values[5] = -torch.inf
    for view, dim in ((values.view(64, size, -1), 1), (values.T.view(size, -1, 64), 0)):
        assert torch.equal(maximum_by_halves(view, dim), view.amax(dim=dim))


@given(
    queries=st.lists(st.integers(0, 9), min_size=1, max_size=30).map(sorted),
    gallery=st.lists(st.integers(0, 9), min_size=1, max_size=30).map(sorted),
    padding=st.integers(0, 3),
)
def test_products_of_one_class_and_padding_are_masked(queries, gallery, padding):
    products = torch.zeros(len(queries) + padding, len(gallery) + padding)
    mask_positives(products, torch.tensor(queries), torch.tensor(gallery))
    expected = torch.full_like(products, -torch.inf)
    expected[: len(queries), : len(gallery)] = 0
    same = torch.tensor(queries)[:, None] == torch.tensor(gallery)
    expected[: len(queries), : len(gallery)][same] = -torch.inf
    assert torch.equal(products, expected)
