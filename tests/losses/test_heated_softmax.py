from itertools import product

import numpy as np
import pytest
import torch

import heated
from heated.losses.embedding_norm import NORMALISATIONS, Batch
from heated.losses.heated_softmax import BIASES, HeatedSoftmax

N, C, D = 6, 4, 5
ALPHA, EPS = 3.0, 1e-3
ROWS = np.random.default_rng(0).normal(0.5, 2.0, (N, D))
LABELS = np.array([0, 1, 2, 3, 1, 0])
BIAS = np.array([0.5, -1.0, 0.25, 0.75])
SHIFT = np.linspace(-0.5, 0.5, D)
FREE = ("none", "l2_embeddings")  # of the normalisations: class weights as they are


def built(normalise="l2", *, bias="outside", alpha=ALPHA, smoothing=0.0):
    """A head in float64 whose bias and shift are not 0."""
    torch.manual_seed(0)
    head = HeatedSoftmax(
        C, D, normalise=normalise, alpha=alpha, bias=bias, label_smoothing=smoothing
    ).double()
    with torch.no_grad():
        if head.bias is not None:
            head.bias.copy_(torch.from_numpy(BIAS))
        for shift in head.normalise.parameters():
            shift.copy_(torch.from_numpy(SHIFT))
    return head


def close(actual, expected):
    np.testing.assert_allclose(actual.detach().numpy(), expected, rtol=1e-9, atol=1e-12)


# --- the paper's equations in numpy ----------------------------------------------------------


def unit(rows):
    return rows / np.sqrt((rows**2).sum(axis=1, keepdims=True))


def normalised(rows, normalise):
    if normalise == "batch":
        return ((rows - rows.mean(axis=0)) / np.sqrt(rows.var(axis=0) + EPS) + SHIFT) / D**0.5
    return unit(rows) if normalise in ("l2", "l2_embeddings") else rows


def weights(head, normalise):
    weight = head.weight.detach().numpy()
    return weight if normalise in FREE else unit(weight)


def scores(z, bias, alpha=ALPHA):
    """alpha (z + b) as in eq. 1, alpha z + b as in the authors' code, or alpha z."""
    inside, outside = (BIAS if bias == place else 0 for place in ("inside", "outside"))
    return alpha * (z + inside) + outside


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def targets(smoothing):
    """q of eq. 2: 1 at the label, with its share spread over all classes."""
    return (1 - smoothing) * np.eye(C)[LABELS] + smoothing / C


def through_unit(gradient, rows):
    """A gradient with respect to v / |v| taken to v by eq. 5, (I - v v^T) / |v|, row by row."""
    lengths, directions = np.linalg.norm(rows, axis=1, keepdims=True), unit(rows)
    jacobians = (np.eye(D) - directions[:, :, None] * directions[:, None, :]) / lengths[:, :, None]
    return np.einsum("nij,nj->ni", jacobians, gradient)


def through_batch_norm(gradient, rows):
    """A gradient with respect to the output of batch norm, / sqrt(D) included, to its input."""
    deviation = np.sqrt(rows.var(axis=0) + EPS)
    standard, inner = (rows - rows.mean(axis=0)) / deviation, gradient / D**0.5
    return (inner - inner.mean(axis=0) - standard * (inner * standard).mean(axis=0)) / deviation


def differentiated(head):
    """Gradients by autograd, with respect to the embeddings and the normalised embeddings."""
    embeddings, seen = torch.from_numpy(ROWS).clone().requires_grad_(), []
    head.normalise.register_forward_hook(lambda *arguments: seen.append(arguments[-1]))
    loss = head(embeddings, torch.from_numpy(LABELS))
    inner = torch.autograd.grad(loss, seen[0], retain_graph=True)[0]
    loss.backward()
    return embeddings.grad, inner


CASES = [*product(NORMALISATIONS, BIASES, (0.0, 0.1))]


def test_logits_loss_and_gradients_are_those_of_the_paper(subtests):
    """Eq. 1 to 3 and 5."""
    for normalise, bias, smoothing in CASES:
        with subtests.test(normalise=normalise, bias=bias, smoothing=smoothing):
            head = built(normalise, bias=bias, smoothing=smoothing)
            f, w = normalised(ROWS, normalise), weights(head, normalise)
            p, q = softmax(scores(f @ w.T, bias)), targets(smoothing)
            close(head.logits(torch.from_numpy(ROWS)), scores(f @ w.T, bias))
            loss = head(torch.from_numpy(ROWS), torch.from_numpy(LABELS))
            close(loss, -(q * np.log(p)).sum(axis=1).mean())

            by_embeddings, by_normalised = differentiated(head)
            error = (p - q) / N  # the loss is a mean
            by_z = ALPHA * error  # eq. 2
            by_f = by_z @ w  # eq. 3
            by_w = by_z.T @ f
            unit_length = through_unit(by_f, ROWS)
            outer = {"none": by_f, "l2": unit_length, "l2_embeddings": unit_length}
            outer["batch"] = through_batch_norm(by_f, ROWS)
            raw = head.weight.detach().numpy()
            close(by_normalised, by_f)
            close(by_embeddings, outer[normalise])
            close(head.weight.grad, by_w if normalise in FREE else through_unit(by_w, raw))
            if bias != "none":
                close(head.bias.grad, (by_z if bias == "inside" else error).sum(axis=0))
            if normalise == "batch":
                close(head.normalise.shift.grad, by_f.sum(axis=0) / D**0.5)


def test_sm_is_plain_softmax_of_weights_times_embeddings_and_bias():
    head = built("none", alpha=1.0)
    close(head.logits(torch.from_numpy(ROWS)), ROWS @ head.weight.detach().numpy().T + BIAS)


# --- what is normalised ----------------------------------------------------------------------


def test_the_length_of_class_weights_counts_only_where_they_are_not_normalised():
    for normalise in NORMALISATIONS:
        head = built(normalise)
        before = head.logits(torch.from_numpy(ROWS))
        with torch.no_grad():
            head.weight.mul_(7)
        same = torch.allclose(head.logits(torch.from_numpy(ROWS)), before)
        assert same == (normalise not in FREE), normalise


def test_l2_logits_are_cosines_times_alpha():
    logits = built("l2", bias="none").logits(100 * torch.from_numpy(ROWS)).detach()
    assert logits.abs().max() <= ALPHA
    own = built("l2", bias="none")
    close(own.logits(own.weight).diagonal(), np.full(C, ALPHA))


def test_the_embedding_to_compare_is_the_networks_output_or_under_batch_norm_the_normalised_one():
    for normalise in ("none", "l2"):
        close(built(normalise).eval().embedding(torch.from_numpy(ROWS)), ROWS)
    module = Batch(D, momentum=1.0, eps=EPS)
    head = built(module)
    assert head.normalise is module
    head.logits(torch.from_numpy(ROWS))  # the running statistics are now this batch's
    spread = ROWS.var(axis=0, ddof=1) + EPS
    expected = ((ROWS - ROWS.mean(axis=0)) / np.sqrt(spread) + SHIFT) / D**0.5
    close(head.eval().embedding(torch.from_numpy(ROWS)), expected)


# --- how it begins ---------------------------------------------------------------------------


def test_without_options_it_is_the_papers_bn():
    head = HeatedSoftmax(C, D)
    assert isinstance(head.normalise, Batch)
    assert head.alpha == 16
    assert not head.bias_inside
    assert torch.equal(head.bias, torch.zeros(C))
    assert head.label_smoothing == 0
    assert [name for name, _ in built(bias="none").named_parameters()] == ["weight"]


def test_class_weights_begin_with_variance_1_over_d_cut_off_at_two_deviations():
    torch.manual_seed(0)
    weight = HeatedSoftmax(2000, 64).weight.detach()
    assert weight.var().item() == pytest.approx(1 / 64, rel=0.02)
    assert weight.abs().max().item() == pytest.approx(2 / 8 / 0.8796, rel=0.001)


# --- alpha -----------------------------------------------------------------------------------


def test_alpha_is_set_in_place_and_changes_the_loss():
    head = built("l2")
    parameters, place = list(map(id, head.parameters())), head.alpha.data_ptr()
    for alpha in (16, 4.0, 0.25):
        head.alpha = alpha
        p = softmax(scores(unit(ROWS) @ weights(head, "l2").T, "outside", alpha))
        expected = -np.log(p[np.arange(N), LABELS]).mean()
        close(head(torch.from_numpy(ROWS), torch.from_numpy(LABELS)), expected)
        assert head.alpha == alpha
    assert list(map(id, head.parameters())) == parameters
    assert head.alpha.data_ptr() == place


def test_alpha_is_a_tensor_of_the_module_saved_and_not_learned():
    head, other = built(alpha=16.0), built(alpha=1.0)
    assert head.alpha.shape == ()
    assert head.alpha.dtype == torch.float64  # it went along with .double()
    assert not head.alpha.requires_grad
    assert "alpha" not in {name.removeprefix("_") for name, _ in head.named_parameters()}
    head.alpha = 4
    other.load_state_dict(head.state_dict())
    assert other.alpha == 4


# --- what is refused -------------------------------------------------------------------------


def test_what_is_not_allowed_is_refused_with_what_is():
    for alpha in (0, -1.0, float("inf"), float("nan")):
        told = f"alpha: came {alpha!r}; allowed: a finite number above"
        with pytest.raises(ValueError, match=told):
            HeatedSoftmax(C, D, alpha=alpha)
        head = built(alpha=16.0)
        with pytest.raises(ValueError, match=told):
            head.alpha = alpha
        assert head.alpha == 16
    for option, value, allowed in (
        ("bias", "outer", "outside, inside, none"),
        ("normalise", "layer", "none, l2, l2_embeddings, batch"),
        ("adaptation", "adam", "none, learned, adacos"),
    ):
        with pytest.raises(ValueError, match=f"{option}: got '{value}', expected one of {allowed}"):
            HeatedSoftmax(C, D, **{option: value})
    with pytest.raises(ValueError, match="label_smoothing: came .*allowed: 0"):
        HeatedSoftmax(C, D, label_smoothing=0.1, denominator="others")
    with pytest.raises(ValueError, match="adacos: came 2 classes; allowed: at least 3"):
        HeatedSoftmax(2, D, adaptation="adacos")


def test_the_package_offers_the_loss_and_nothing_that_is_not_there():
    assert heated.HeatedSoftmax is HeatedSoftmax
    with pytest.raises(AttributeError, match="no attribute 'HeatedSoftmin'"):
        _ = heated.HeatedSoftmin


# --- in a loop of one's own ------------------------------------------------------------------


@pytest.mark.parametrize("normalise", NORMALISATIONS)
def test_a_loop_of_ones_own_learns_and_is_heated(normalise):
    torch.manual_seed(0)
    images, labels = torch.randn(60, 8), torch.arange(60) % 3
    images[:, 0] += 2.0 * labels
    network = torch.nn.Linear(8, 4)
    losses = []

    head = heated.HeatedSoftmax(3, 4, normalise=normalise, alpha=8)
    optimiser = torch.optim.SGD([*network.parameters(), *head.parameters()], lr=0.05)
    for epoch in range(20):
        head.alpha = 8 if epoch < 15 else 2
        loss = head(network(images), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())

    assert losses[14] < 0.7 * losses[0]
    assert losses[19] < losses[15]


def test_embeddings_that_come_normalized_give_the_same_logits():
    for normalise in NORMALISATIONS:
        torch.manual_seed(0)
        head = HeatedSoftmax(3, 4, normalise=normalise)
        torch.manual_seed(0)
        other = HeatedSoftmax(3, 4, normalise="none", unit_weights=head.unit_weights)
        raw = torch.randn(8, 4)
        assert torch.equal(other.logits(head.normalise(raw)), head.logits(raw))
