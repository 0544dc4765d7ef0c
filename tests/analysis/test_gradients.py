"""The closed form of the gradient against autograd, and its limit as alpha grows."""

from itertools import product

import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot

from heated.analysis import gradients
from heated.analysis.gradients import class_weights, final_slopes, gradient_norms, margins
from heated.common.errors import InputError
from heated.losses.embedding_norm import NORMALIZATIONS
from heated.losses.heated_softmax import BIASES, HeatedSoftmax

N, C, D = 12, 4, 5
ALPHAS = [0.25, 1.0, 4.0, 16.0, 60.0]
CASES = [*product(NORMALIZATIONS, BIASES, (0.0, 0.1))]


def built(normalize="l2", *, bias="outside", smoothing=0.0, seed=0):
    """A head in float64, in eval mode, whose bias, shift and statistics are not 0."""
    torch.manual_seed(seed)
    head = HeatedSoftmax(C, D, normalize=normalize, bias=bias, label_smoothing=smoothing).double()
    with torch.no_grad():
        for vector in (head.bias, *head.normalization.parameters()):
            if vector is not None:
                vector.normal_(std=0.5)
    head.logits(torch.randn(64, D).double() + 1)
    return head.eval()


def samples(head, size=N, seed=1):
    """Normalized embeddings and labels, some correct and some not."""
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randn(size, D, generator=generator, dtype=torch.float64)
    labels = torch.randint(C, (size,), generator=generator)
    return head.normalization(raw).detach(), labels


def differentiated(head, raw, label, alpha):
    """||dl/df|| of one sample, by autograd through the classifier as it is trained."""
    seen = []
    hook = head.normalization.register_forward_hook(lambda *arguments: seen.append(arguments[-1]))
    head.alpha = alpha
    loss = head(raw[None].clone().requires_grad_(), label[None])
    hook.remove()
    return torch.autograd.grad(loss, seen[0])[0].norm().item()


def test_the_closed_form_is_autograds_gradient_of_each_sample_alone(subtests):
    for normalize, bias, smoothing in CASES:
        with subtests.test(normalize=normalize, bias=bias, smoothing=smoothing):
            head = built(normalize, bias=bias, smoothing=smoothing)
            raw = torch.randn(N, D, dtype=torch.float64)
            labels = torch.arange(N) % C
            expected = [
                [differentiated(head, raw[i], labels[i], a) for a in ALPHAS] for i in range(N)
            ]
            norms = gradient_norms(head, head.normalization(raw).detach(), labels, ALPHAS)
            assert norms.dtype == torch.float64
            np.testing.assert_allclose(norms.numpy(), expected, rtol=1e-9, atol=1e-12)


def test_the_models_own_alpha_the_size_of_blocks_and_the_order_of_alphas_change_nothing(
    monkeypatch,
):
    functions = (lambda *of: gradient_norms(*of, ALPHAS), final_slopes, margins)
    for normalize in NORMALIZATIONS:
        head = built(normalize)
        before = [function(head, *samples(head)) for function in functions]
        head.alpha = 3
        back = gradient_norms(head, *samples(head), ALPHAS[::-1])
        assert torch.equal(back.flip(1), before[0])
        for entries in (1, 3 * C, 5 * C):
            monkeypatch.setattr(gradients, "MAX_LOGITS", entries)
            for function, expected in zip(functions, before, strict=True):
                values = function(head, *samples(head))
                torch.testing.assert_close(values, expected, rtol=1e-12, atol=1e-15)
        monkeypatch.undo()


def test_correct_samples_fall_to_0_and_misclassified_ones_grow_by_a_constant(subtests):
    for bias, normalize in product(BIASES, NORMALIZATIONS):
        with subtests.test(bias=bias, normalize=normalize):
            head = built(normalize, bias=bias)
            normalized, labels = samples(head, size=200)
            ahead = margins(head, normalized, labels)
            slopes = gradient_norms(head, normalized, labels, [1e6])[:, 0] / 1e6
            clear = ahead.abs() > 1e-4
            correct, wrong = clear & (ahead > 0), clear & (ahead < 0)
            assert min(correct.sum(), wrong.sum()) > 10
            scores = normalized @ class_weights(head).T
            if bias == "inside":
                scores = scores + head.bias.detach()
            weights = class_weights(head)
            expected = (weights[scores.argmax(dim=1)] - weights[labels]).norm(dim=1)
            torch.testing.assert_close(slopes[wrong], expected[wrong], rtol=1e-6, atol=0)
            torch.testing.assert_close(final_slopes(head, normalized, labels), expected)
            assert slopes[correct].max() < 1e-12
            assert expected[correct].max() == 0


def test_smoothed_labels_pull_on_correct_samples_at_every_alpha(subtests):
    for normalize in NORMALIZATIONS:
        with subtests.test(normalize=normalize):
            head = built(normalize, smoothing=0.1)
            normalized, labels = samples(head, size=200)
            correct = margins(head, normalized, labels) > 1e-4
            weight = class_weights(head)
            targets = 0.9 * one_hot(labels, C).double() + 0.1 / C
            expected = (weight[labels] - targets @ weight).norm(dim=1)
            slopes = gradient_norms(head, normalized, labels, [1e6])[:, 0] / 1e6
            torch.testing.assert_close(slopes[correct], expected[correct], rtol=1e-6, atol=0)
            torch.testing.assert_close(
                final_slopes(head, normalized, labels)[correct], expected[correct]
            )


def test_a_gradient_keeps_its_digits_where_the_probability_is_nearly_1():
    head = built(bias="none")
    with torch.no_grad():
        head.weight.copy_(torch.eye(C, D))
    norms = gradient_norms(head, torch.eye(C, D).double()[:1], torch.tensor([0]), [60.0])
    share = np.exp(-60) / (1 + 3 * np.exp(-60))  # of each of the three others
    assert norms.item() == pytest.approx(60 * share * np.sqrt(9 + 3), rel=1e-12)


@pytest.mark.parametrize("bias", BIASES)
def test_a_margin_is_above_0_for_a_correct_class(bias):
    head = built(bias=bias)
    normalized, labels = samples(head, size=100)
    scores = normalized @ class_weights(head).T
    if bias == "inside":
        scores = scores + head.bias.detach()
    others = scores[one_hot(labels, C) == 0].view(100, C - 1)
    expected = scores[one_hot(labels, C) == 1] - others.amax(dim=1)
    found = margins(head, normalized, labels)
    torch.testing.assert_close(found, expected)
    assert torch.equal(found > 0, scores.argmax(dim=1) == labels)


def test_each_samples_gradient_depends_on_no_other():
    head = built()
    normalized, _ = samples(head)
    labels = torch.arange(N) % 2  # none of classes 2 and 3
    norms = gradient_norms(head, normalized, labels, ALPHAS)
    assert norms.shape == (N, len(ALPHAS))
    assert torch.equal(norms[:1], gradient_norms(head, normalized[:1], labels[:1], ALPHAS))
    assert gradient_norms(head, normalized[:0], labels[:0], ALPHAS).shape == (0, 5)


def test_invalid_alphas_and_samples_of_another_classifier_raise():
    cases = [((2, D + 1), [0, 1]), ((3, D), [0, 1]), ((D,), [0, 1])]
    cases += [((2, D), [0, C]), ((2, D), [-1, 0]), ((2, D), [[0], [1]])]
    functions = (lambda *of: gradient_norms(*of, ALPHAS), final_slopes, margins)
    for (shape, labels), function in product(cases, functions):
        with pytest.raises(InputError, match=r"expected \(N, 5\) and \(N,\) in \[0, 4\)"):
            function(built(), torch.zeros(shape), torch.tensor(labels))
    for alpha in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(InputError, match="alphas: got .*, expected finite numbers above 0"):
            gradient_norms(built(), *samples(built()), [1.0, alpha])
