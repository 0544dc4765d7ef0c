import numpy as np
import pytest
import torch

from heated.losses.embedding_norm import NORMALIZATIONS, BatchNormEmbedding

N, D = 7, 5
ROWS = np.random.default_rng(0).normal(2.0, 3.0, (N, D))
SHIFT = np.linspace(-1, 1, D)


def make_batch_norm(**options):
    module = BatchNormEmbedding(D, **options).double()
    with torch.no_grad():
        module.shift.copy_(torch.from_numpy(SHIFT))
    return module


def assert_close(actual, expected):
    np.testing.assert_allclose(actual.detach().numpy(), expected, rtol=1e-10, atol=1e-12)


def test_batch_norm_learns_a_shift_and_no_scale_and_gives_lengths_of_about_1():
    module = NORMALIZATIONS["batch"](D).double()
    assert {name: tuple(p.shape) for name, p in module.named_parameters()} == {"shift": (D,)}
    assert not module.shift.any()
    assert module.unit_weights
    assert (module.standardize.momentum, module.standardize.eps) == (0.05, 1e-3)  # the authors'
    rows = np.random.default_rng(1).normal(5, 10, (500, D))
    lengths = (module(torch.from_numpy(rows)).detach().numpy() ** 2).sum(axis=1)
    assert lengths.mean() == pytest.approx(1, abs=1e-3)
    standardized = (ROWS - ROWS.mean(axis=0)) / np.sqrt(ROWS.var(axis=0) + 0.5)
    shifted = make_batch_norm(momentum=0.05, eps=0.5)
    assert_close(shifted(torch.from_numpy(ROWS)), (standardized + SHIFT) / np.sqrt(D))
    with pytest.raises(ValueError, match="more than 1 value"):
        module(torch.zeros(1, D).double())


def test_momentum_weights_the_new_batch_and_evaluation_uses_the_running_statistics():
    for momentum in (0.05, 0.3):
        module, second = make_batch_norm(momentum=momentum, eps=1e-3), ROWS[::-1] * 2 + 1
        mean, variance = np.zeros(D), np.ones(D)
        for rows in (ROWS, second):
            module(torch.from_numpy(rows.copy()))
            mean = (1 - momentum) * mean + momentum * rows.mean(axis=0)
            variance = (1 - momentum) * variance + momentum * rows.var(axis=0, ddof=1)
        expected = ((ROWS - mean) / np.sqrt(variance + 1e-3) + SHIFT) / np.sqrt(D)
        module.eval()
        for _ in range(2):  # evaluation does not change the statistics
            assert_close(module(torch.from_numpy(ROWS)), expected)
            assert_close(module.embedding(torch.from_numpy(ROWS)), expected)
            assert_close(module(torch.from_numpy(ROWS[2:3])), expected[2:3])
