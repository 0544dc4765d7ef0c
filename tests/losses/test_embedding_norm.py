import numpy as np
import pytest
import torch

from heated.losses.embedding_norm import NORMALISATIONS, Batch

OPTIONS = {"none": {}, "l2": {}, "l2_embeddings": {}, "batch": {"momentum": 0.05, "eps": 1e-3}}
N, D = 7, 5
ROWS = np.random.default_rng(0).normal(2.0, 3.0, (N, D))


def built(name):
    return NORMALISATIONS[name](D, **OPTIONS[name]).double()


def batch(**options):
    module = Batch(D, **options).double()
    with torch.no_grad():
        module.shift.copy_(torch.linspace(-1, 1, D))
    return module


def standardised(rows, *, eps):
    return (rows - rows.mean(axis=0)) / np.sqrt(rows.var(axis=0) + eps)


def close(actual, expected):
    np.testing.assert_allclose(actual.detach().numpy(), expected, rtol=1e-10, atol=1e-12)


def test_every_normalisation_is_tested_here():
    assert set(OPTIONS) == set(NORMALISATIONS)


def test_a_normalisation_keeps_the_shape(subtests):
    for name in NORMALISATIONS:
        with subtests.test(name=name):
            assert built(name)(torch.from_numpy(ROWS)).shape == (N, D)
            assert built(name).eval().embedding(torch.from_numpy(ROWS)).shape == (N, D)


def test_none_changes_nothing_and_leaves_the_class_weights_alone():
    close(built("none")(torch.from_numpy(ROWS)), ROWS)
    close(built("none").embedding(torch.from_numpy(ROWS)), ROWS)
    assert not built("none").unit_weights
    assert list(built("none").parameters()) == []


def test_l2_divides_each_row_by_its_length():
    expected = ROWS / np.sqrt((ROWS**2).sum(axis=1, keepdims=True))
    close(built("l2")(torch.from_numpy(ROWS)), expected)
    close(built("l2_embeddings")(torch.from_numpy(ROWS)), expected)
    assert built("l2").unit_weights
    assert not built("l2_embeddings").unit_weights
    assert built("l2").unit_weights
    assert list(built("l2").parameters()) == []


def test_l2_of_a_row_of_zeros_is_zeros():
    close(built("l2")(torch.zeros(1, D).double()), np.zeros((1, D)))


def test_l2_keeps_the_length_of_the_embedding_to_compare():
    close(built("l2").embedding(torch.from_numpy(ROWS)), ROWS)


# --- batch norm ------------------------------------------------------------------------------


def test_batch_norm_learns_a_shift_and_no_scale():
    module = built("batch")
    assert {name: tuple(p.shape) for name, p in module.named_parameters()} == {"shift": (D,)}
    assert not module.shift.any()
    assert module.unit_weights


def test_batch_norm_standardises_shifts_and_divides_by_the_root_of_d():
    shift = np.linspace(-1, 1, D)
    expected = (standardised(ROWS, eps=0.5) + shift) / np.sqrt(D)
    close(batch(momentum=0.05, eps=0.5)(torch.from_numpy(ROWS)), expected)


def test_a_batch_normed_row_has_length_1_on_average():
    rows = np.random.default_rng(1).normal(5, 10, (500, D))
    out = built("batch")(torch.from_numpy(rows)).detach().numpy()
    assert (out**2).sum(axis=1).mean() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("momentum", [0.05, 0.3])
def test_momentum_is_the_share_of_the_new_batch(momentum):
    module, second = batch(momentum=momentum, eps=1e-3), ROWS[::-1] * 2 + 1
    mean, variance = np.zeros(D), np.ones(D)
    for rows in (ROWS, second):
        module(torch.from_numpy(rows.copy()))
        mean = (1 - momentum) * mean + momentum * rows.mean(axis=0)
        variance = (1 - momentum) * variance + momentum * rows.var(axis=0, ddof=1)
    expected = ((ROWS - mean) / np.sqrt(variance + 1e-3) + np.linspace(-1, 1, D)) / np.sqrt(D)
    module.eval()
    close(module(torch.from_numpy(ROWS)), expected)
    close(module.embedding(torch.from_numpy(ROWS)), expected)


def test_without_options_batch_norm_has_the_authors_momentum_and_eps():
    standardise = Batch(D).standardise
    assert (standardise.momentum, standardise.eps) == (0.05, 1e-3)


def test_evaluation_does_not_depend_on_the_batch_nor_change_the_statistics():
    module = built("batch")
    module(torch.from_numpy(ROWS))
    module.eval()
    whole = module(torch.from_numpy(ROWS))
    close(module(torch.from_numpy(ROWS[2:3])), whole[2:3].detach().numpy())
    close(module(torch.from_numpy(ROWS)), whole.detach().numpy())


def test_one_sample_has_no_variance_to_train_with():
    with pytest.raises(ValueError, match="more than 1 value"):
        built("batch")(torch.zeros(1, D).double())
