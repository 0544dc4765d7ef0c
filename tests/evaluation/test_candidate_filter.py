from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from heated.common.geometry import l2_normalize
from heated.evaluation.candidate_filter import (
    CandidateFilter,
    round_vectors,
    rounding_bound,
    split_by_cost,
)

DTYPES = [torch.bfloat16, torch.float32]
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def halfway(count, dim, *, up):
    """Unit vectors of equal entries, as far from a bfloat16 number as possible."""
    mantissas = torch.linspace(1, 2, 129, dtype=torch.float64)[:-1] + 2**-8 * (0.98 if up else 1.02)
    entries = mantissas[torch.arange(count) % 128][:, None].expand(count, dim)
    return entries / (2 * dim**0.5)


def alternating(count, dim):
    """Unit vectors whose products are large terms that cancel."""
    signs = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(dim)[:dim]
    return l2_normalize(torch.randn(count, dim, dtype=torch.float64).abs() * signs)


def one_large_entry(count, dim):
    vectors = torch.full((count, dim), 2.0**-12, dtype=torch.float64)
    vectors[torch.arange(count), torch.arange(count) % dim] = 1
    return l2_normalize(vectors)


def random_unit(count, dim, decay=0.0):
    scale = torch.arange(1, dim + 1) ** -decay
    return l2_normalize(torch.randn(count, dim, dtype=torch.float64) * scale)


HARD_CASES = {
    "rounded down": lambda n, d: (halfway(n, d, up=True), halfway(n, d, up=True)),
    "rounded up": lambda n, d: (halfway(n, d, up=False), halfway(n, d, up=False)),
    "cancelling": lambda n, d: (alternating(n, d), alternating(n, d).abs()),
    "one large entry": lambda n, d: (one_large_entry(n, d), one_large_entry(n, d)),
    "random": lambda n, d: (random_unit(n, d), random_unit(n, d)),
    "decaying": lambda n, d: (random_unit(n, d, 1.5), random_unit(n, d, 1.5)),
    "the same": lambda n, d: (random_unit(n, d),) * 2,
    "opposite": lambda n, d: (halfway(n, d, up=True), -halfway(n, d, up=True)),
    "zero": lambda n, d: (torch.zeros(n, d, dtype=torch.float64), random_unit(n, d)),
}


def multiply(queries, gallery, dtype=torch.bfloat16, *, excluded=None, width=64):
    products = CandidateFilter(
        gallery, dtype, num_queries=len(queries), memory_mib=128, width=width
    )
    return products.multiply(*round_vectors(queries, dtype), excluded=excluded)


def errors(queries, gallery, dtype):
    """The errors of stored products, their bounds, and the bounds of the sums alone."""
    block = multiply(queries, gallery, dtype)
    products = block.products[:, : len(gallery)]
    error = (products.double() - queries @ gallery.T).abs()
    return error, block.bound[:, None] + rounding_bound(products), block.bound[:, None]


def test_no_product_errs_by_more_than_the_bound(subtests):
    for device, dtype, dim, name in product(DEVICES, DTYPES, [1, 2, 7, 64, 512, 2048], HARD_CASES):
        with subtests.test(device=device, dtype=dtype, dim=dim, name=name):
            torch.manual_seed(0)
            queries, gallery = (vectors.to(device) for vectors in HARD_CASES[name](150, dim))
            error, allowed, _ = errors(queries, gallery, dtype)
            assert (error <= allowed).all()


def test_the_bound_is_tight_up_to_a_small_factor():
    error, allowed, bound = errors(*HARD_CASES["rounded down"](128, 512), torch.bfloat16)
    assert (error / allowed).max() > 0.5
    assert (error > bound / 2).any()


@pytest.mark.parametrize("width", [1, 8, 64])
def test_candidates_include_every_pair_that_may_reach_the_threshold(width):
    torch.manual_seed(0)
    queries, gallery = random_unit(20, 16), random_unit(300, 16)
    block = multiply(queries, gallery, width=width)
    true = queries @ gallery.T
    threshold = true.sort(dim=1, descending=True).values[:, 5]
    threshold[1::2] = torch.inf
    wanted = {(r, c) for r, c in torch.nonzero(true >= threshold[:, None]).tolist()}
    for max_columns in (1, 10**6):
        pieces = block.candidates(threshold, max_columns)
        row, column, stored = (torch.cat(each) for each in zip(*pieces, strict=True))
        found = list(zip(row.tolist(), column.tolist(), strict=True))
        assert wanted <= set(found)
        assert set(row.tolist()) == set(range(0, 20, 2))
        assert torch.equal(stored, block.products[row, column])
        assert len(set(found)) == len(found) < 100  # of 3,000


def test_an_excluded_column_is_no_candidate():
    vectors = random_unit(70, 8)
    excluded = torch.where(torch.arange(70) < 10, torch.arange(70), -1)
    block = multiply(vectors, vectors, excluded=excluded)
    ((row, column, _),) = block.candidates(torch.full((70,), 1 - 1e-9).double(), 10**6)
    assert row[row == column].tolist() == list(range(10, 70))
    assert column.max() < 70


def test_buffers_are_reused():
    vectors = random_unit(100, 8)
    products = CandidateFilter(random_unit(100, 8), torch.bfloat16, num_queries=10, memory_mib=128)
    products.multiply(*round_vectors(vectors[:3], torch.bfloat16))
    address = products.buffers.products.data_ptr()
    products.set_gallery(vectors)
    block = products.multiply(*round_vectors(vectors[:3], torch.bfloat16))
    assert block.products.data_ptr() == address
    assert block.products.shape == (3, 128)
    assert block.products[:, :100].argmax(dim=1).tolist() == [0, 1, 2]


@given(st.lists(st.integers(0, 9), max_size=30), st.integers(1, 20))
def test_groups_hold_every_index_with_a_cost_once_and_are_limited(costs, limit):
    groups = [group.tolist() for group in split_by_cost(torch.tensor(costs).long(), limit)]
    assert [i for group in groups for i in group] == [i for i, cost in enumerate(costs) if cost]
    for group in groups:
        assert sum(costs[i] for i in group[1:]) <= limit
