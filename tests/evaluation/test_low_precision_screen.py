from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from heated.common.geometry import l2_normalize
from heated.evaluation.low_precision_screen import Screen, exact_sums, half_step, portions, rounded

DTYPES = [torch.bfloat16, torch.float32]
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def halfway(count, dim, *, up):
    """Unit vectors of equal entries that all lie as far from what bfloat16 holds as can be."""
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


def drawn(count, dim):
    return l2_normalize(torch.randn(count, dim, dtype=torch.float64))


HARD = {
    "rounded down": lambda n, d: (halfway(n, d, up=True), halfway(n, d, up=True)),
    "rounded up": lambda n, d: (halfway(n, d, up=False), halfway(n, d, up=False)),
    "cancelling": lambda n, d: (alternating(n, d), alternating(n, d).abs()),
    "one large entry": lambda n, d: (one_large_entry(n, d), one_large_entry(n, d)),
    "random": lambda n, d: (drawn(n, d), drawn(n, d)),
    "the same": lambda n, d: (drawn(n, d),) * 2,
    "opposite": lambda n, d: (halfway(n, d, up=True), -halfway(n, d, up=True)),
    "zero": lambda n, d: (torch.zeros(n, d, dtype=torch.float64), drawn(n, d)),
}


def errors(queries, gallery, dtype):
    """How far stored products are from the true ones, and how far they may be."""
    screen = Screen(rounded(gallery, dtype), rows=len(queries))
    block = screen.multiply(rounded(queries, dtype))
    products = block.products[:, : len(gallery)]
    error = (products.double() - queries @ gallery.T).abs()
    return error, block.bound[:, None] + half_step(products)


def test_no_product_is_farther_off_than_the_bound(subtests):
    for device, dtype, dim, name in product(DEVICES, DTYPES, [1, 2, 7, 64, 512, 2048], HARD):
        with subtests.test(device=device, dtype=dtype, dim=dim, name=name):
            torch.manual_seed(0)
            queries, gallery = (vectors.to(device) for vectors in HARD[name](150, dim))
            error, allowed = errors(queries, gallery, dtype)
            assert (error <= allowed).all()


@given(st.integers(0, 2**32), st.integers(1, 80), st.floats(0, 3))
@settings(max_examples=200, deadline=None)
def test_no_random_product_is_farther_off_than_the_bound(seed, dim, decay):
    generator = torch.Generator().manual_seed(seed)
    scale = torch.arange(1, dim + 1) ** -decay
    vectors = l2_normalize(torch.randn(40, dim, generator=generator, dtype=torch.float64) * scale)
    error, allowed = errors(vectors[:20], vectors[20:], torch.bfloat16)
    assert (error <= allowed).all()


def test_the_bound_is_reached_up_to_a_small_factor_so_that_a_smaller_one_would_be_wrong():
    queries, gallery = HARD["rounded down"](128, 512)
    error, allowed = errors(queries, gallery, torch.bfloat16)
    assert (error / allowed).max() > 0.5
    block = Screen(rounded(gallery, torch.bfloat16), rows=128).multiply(
        rounded(queries, torch.bfloat16)
    )
    assert (error > block.bound[:, None] / 2).any()


@pytest.mark.parametrize("width", [1, 8, 64])
def test_candidates_are_all_that_may_reach_the_threshold(width):
    torch.manual_seed(0)
    queries, gallery = drawn(20, 16), drawn(300, 16)
    screen = Screen(rounded(gallery, torch.bfloat16), rows=20, width=width)
    block = screen.multiply(rounded(queries, torch.bfloat16))
    true = queries @ gallery.T
    least = true.sort(dim=1, descending=True).values[:, 5]
    rows = torch.arange(0, 20, 2)
    row, column, product = block.candidates(rows, least)
    found = set(zip(row.tolist(), column.tolist(), strict=True))
    wanted = torch.nonzero(true >= least[:, None]).tolist()
    assert {(r, c) for r, c in wanted if r % 2 == 0} <= found
    assert {r for r, _ in found} == set(rows.tolist())
    assert torch.equal(product, block.products[row, column])
    assert len(found) < 100  # of 3,000
    reached = block.reaching(least)
    assert all(reached[r, c // width] for r, c in found)


def test_a_hidden_column_is_no_candidate():
    vectors = drawn(70, 8)
    screen = Screen(rounded(vectors, torch.bfloat16), rows=70)
    hidden = torch.where(torch.arange(70) < 10, torch.arange(70), -1)
    block = screen.multiply(rounded(vectors, torch.bfloat16), hidden=hidden)
    row, column, _ = block.candidates(torch.arange(70), torch.full((70,), 1 - 1e-9).double())
    own = row[row == column].tolist()
    assert own == list(range(10, 70))
    assert column.max() < 70


def test_buffers_are_used_again():
    screen = Screen(rounded(drawn(100, 8), torch.bfloat16), rows=10)
    before = screen.products.data_ptr()
    vectors = drawn(100, 8)
    screen.hold(rounded(vectors, torch.bfloat16))
    block = screen.multiply(rounded(vectors[:3], torch.bfloat16))
    assert block.products.data_ptr() == before
    assert block.products.shape == (3, 128)
    assert block.products[:, :100].argmax(dim=1).tolist() == [0, 1, 2]


@given(st.lists(st.integers(0, 9), max_size=30), st.integers(1, 20))
def test_portions_hold_every_index_with_a_cost_once_and_cost_little(costs, most):
    pieces = [piece.tolist() for piece in portions(torch.tensor(costs, dtype=torch.int64), most)]
    assert [i for piece in pieces for i in piece] == [i for i, cost in enumerate(costs) if cost]
    for piece in pieces:
        assert sum(costs[i] for i in piece[1:]) <= most


def test_sums_are_exact_only_while_asked_for():
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_bf16_reduced_precision_reduction
    with exact_sums():
        assert not matmul.allow_bf16_reduced_precision_reduction
    assert matmul.allow_bf16_reduced_precision_reduction == before
