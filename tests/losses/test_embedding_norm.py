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


def test_rows_are_left_alone_or_divided_by_their_length_and_class_weights_too():
    assert set(OPTIONS) == set(NORMALISATIONS)
    unit = ROWS / np.sqrt((ROWS**2).sum(axis=1, keepdims=True))
    for name, expected, unit_weights in (
        ("none", ROWS, False),
        ("l2", unit, True),
        ("l2_embeddings", unit, False),
    ):
        module = built(name)
        close(module(torch.from_numpy(ROWS)), expected)
        close(module.embedding(torch.from_numpy(ROWS)), ROWS)  # the length is kept
        assert module.unit_weights == unit_weights
        assert list(module.parameters()) == []
        close(module(torch.zeros(1, D).double()), np.zeros((1, D)))


# --- batch norm ------------------------------------------------------------------------------


def test_batch_norm_learns_a_shift_and_no_scale_and_divides_by_the_root_of_d():
    module = built("batch")
    assert {name: tuple(p.shape) for name, p in module.named_parameters()} == {"shift": (D,)}
    assert not module.shift.any()
    assert module.unit_weights
    assert (Batch(D).standardise.momentum, Batch(D).standardise.eps) == (0.05, 1e-3)  # authors'
    shift = np.linspace(-1, 1, D)
    expected = (standardised(ROWS, eps=0.5) + shift) / np.sqrt(D)
    close(batch(momentum=0.05, eps=0.5)(torch.from_numpy(ROWS)), expected)


def test_a_batch_normed_row_has_length_1_on_average():
    rows = np.random.default_rng(1).normal(5, 10, (500, D))
    out = built("batch")(torch.from_numpy(rows)).detach().numpy()
    assert (out**2).sum(axis=1).mean() == pytest.approx(1, abs=1e-3)


def test_momentum_is_the_share_of_the_new_batch():
    for momentum in (0.05, 0.3):
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
