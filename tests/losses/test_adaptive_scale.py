import math

import numpy as np
import pytest
import torch

from heated.losses.adaptive_scale import adacos
from heated.losses.heated_softmax import HeatedSoftmax

N, C, D = 8, 5, 6


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(N, D, generator=generator, dtype=torch.float64)
    return embeddings, torch.randint(C, (N,), generator=generator)


def head(adaptation, alpha=7.0):
    torch.manual_seed(0)
    built = HeatedSoftmax(C, D, normalise="l2", bias="none", alpha=alpha, adaptation=adaptation)
    return built.double()


def test_adacos_is_its_equations_in_numpy():
    z = np.random.default_rng(0).uniform(-1, 1, (N, C))
    labels, alpha = np.arange(N) % C, 3.0
    others = np.ones((N, C), dtype=bool)
    others[np.arange(N), labels] = False
    mean = (np.exp(alpha * z) * others).sum() / N  # eq. 15's B
    angles = np.sort(np.arccos(z[np.arange(N), labels]))
    median = angles[(N - 1) // 2]
    expected = math.log(mean) / math.cos(min(math.pi / 4, median))
    found = adacos(torch.from_numpy(z), torch.from_numpy(labels), torch.tensor(alpha))
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_adacos_begins_at_its_fixed_alpha_and_moves_while_training_only():
    own = head("adacos")
    start = math.sqrt(2) * math.log(C - 1)
    assert own.alpha.item() == pytest.approx(start, rel=1e-6)
    own.eval()(*batch())
    assert own.alpha.item() == pytest.approx(start, rel=1e-6)
    embeddings, labels = batch()
    z = own.similarities(embeddings)
    expected = adacos(z, labels, own.alpha)
    own.train()(embeddings, labels)
    torch.testing.assert_close(own.alpha, expected, check_dtype=False, rtol=1e-6, atol=0)
    assert not own.alpha.requires_grad


def test_a_learned_alpha_begins_where_it_was_set_goes_down_its_gradient_and_stays_above_0():
    own = head("learned")
    assert own.alpha.item() == pytest.approx(7)
    embeddings, labels = batch()
    own(embeddings, labels).backward()
    step = 1e-5

    def loss_at(alpha):
        fixed = head("none")
        fixed.alpha = alpha  # in float64
        with torch.no_grad():
            fixed.weight.copy_(own.weight)
        return fixed(embeddings, labels).item()

    slope = (loss_at(7 * math.exp(step)) - loss_at(7 * math.exp(-step))) / (2 * step)
    assert own.adaptation.exponent.grad.item() == pytest.approx(slope, rel=1e-5)
    with torch.no_grad():
        own.adaptation.exponent.fill_(-20)
    assert own.alpha.item() > 0


def test_a_head_is_whole_in_its_state():
    for adaptation in ("none", "learned", "adacos"):
        own, other = head(adaptation), head(adaptation)
        own.train()(*batch()).backward()
        with torch.no_grad():
            for parameter in own.parameters():
                parameter.sub_(parameter.grad)
        other.load_state_dict(own.state_dict())
        assert torch.equal(other.alpha, own.alpha)
        assert torch.equal(other.eval()(*batch(1)), own.eval()(*batch(1)))


def test_the_others_denominator_is_proxy_ncas():
    """Movshovitz-Attias et al., eq. 3, over squared distances of unit vectors, in numpy."""
    own = HeatedSoftmax(C, D, normalise="l2", bias="none", alpha=2, denominator="others").double()
    embeddings, labels = batch()
    x = embeddings.numpy() / np.linalg.norm(embeddings, axis=1, keepdims=True)
    p = own.weight.detach().numpy()
    p = p / np.linalg.norm(p, axis=1, keepdims=True)
    distances = ((x[:, None] - p) ** 2).sum(axis=2)
    mine = np.eye(C, dtype=bool)[labels]
    others = np.where(mine, 0, np.exp(-distances)).sum(axis=1)
    expected = -np.log(np.exp(-distances[mine]) / others).mean()
    assert own(embeddings, labels).item() == pytest.approx(expected, rel=1e-12)
