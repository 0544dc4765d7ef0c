"""AlphaScheduler on our loss, on those of pytorch-metric-learning, and on any other object."""

from types import SimpleNamespace

import pytest
import torch
from pytorch_metric_learning import losses
from torch import nn

from heated import SCHEDULES, AlphaScheduler, HeatedSoftmax, schedule_values

RAMP = {"start": 16.0, "end": 4.0}
OPTIONS = {
    "constant": {"value": 8.0},
    "step": RAMP | {"at": 0.5},
    **dict.fromkeys(("linear", "cosine", "exponential"), RAMP),
    "periodic_cosine": RAMP | {"periods": 2},
    "piecewise": {"points": [(0.2, 16.0), (0.8, 4.0)]},
}
TARGETS = {  # a loss, the attribute that is found, and whether it is a temperature
    "ours": (lambda: HeatedSoftmax(4, 3), "alpha", False),
    "arcface": (lambda: losses.ArcFaceLoss(4, 3), "scale", False),
    "proxy_nca": (lambda: losses.ProxyNCALoss(4, 3), "softmax_scale", False),
    "supcon": (losses.SupConLoss, "temperature", True),
    "number": (lambda: SimpleNamespace(scale=1), "scale", False),
    "parameter": (lambda: with_parameter("temperature"), "temperature", True),
    "buffer": (lambda: with_buffer("tau"), "tau", True),
}


def with_parameter(name):
    module = nn.Module()
    module.register_parameter(name, nn.Parameter(torch.ones(())))
    return module


def with_buffer(name):
    module = nn.Module()
    module.register_buffer(name, torch.ones(1))
    return module


def number(loss, attribute):
    return torch.as_tensor(getattr(loss, attribute)).detach().item()


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_sets_every_kind_of_attribute_as_schedule_values_lists(name, subtests):
    expected = schedule_values(name, OPTIONS[name], epochs=7)
    for target, (make, attribute, inverse) in TARGETS.items():
        with subtests.test(target):
            loss, found = make(), []
            kind = type(getattr(loss, attribute))
            scheduler = AlphaScheduler(loss, name, total=7, **OPTIONS[name])
            for epoch in range(9):
                assert scheduler.last_epoch == epoch
                value = number(loss, attribute)
                found.append(1 / value if inverse else value)
                scheduler.step()
            assert scheduler.get_last_alpha() == expected[-1]
            assert found == pytest.approx([*expected, expected[-1], expected[-1]], rel=1e-6)
            assert isinstance(getattr(loss, attribute), float if kind is int else kind)


def test_a_tensor_is_changed_in_place_and_a_named_attribute_may_be_inverse():
    loss = with_parameter("sigma")
    address = loss.sigma.data_ptr()
    AlphaScheduler(loss, "constant", value=4, total=1, attribute="sigma", inverse=True)
    assert (loss.sigma.data_ptr(), loss.sigma.item()) == (address, 0.25)
    assert loss.sigma.requires_grad


@pytest.mark.parametrize("target", TARGETS)
def test_a_resumed_schedule_goes_on_as_if_uninterrupted(target):
    make, attribute, _ = TARGETS[target]
    pairs = []
    for _ in range(2):
        loss = make()
        pairs.append((loss, AlphaScheduler(loss, "linear", **RAMP, total=6)))
    (loss, scheduler), (other, resumed) = pairs
    for _ in range(3):
        scheduler.step()
    if isinstance(loss, nn.Module):
        other.load_state_dict(loss.state_dict())
    resumed.load_state_dict(scheduler.state_dict())
    for _ in range(3):
        assert number(other, attribute) == number(loss, attribute)
        assert resumed.get_last_alpha() == scheduler.get_last_alpha()
        scheduler.step()
        resumed.step()


def test_a_list_of_values_is_a_schedule_and_none_leaves_alpha_to_training():
    loss = HeatedSoftmax(4, 3, adaptation="learned")
    scheduler = AlphaScheduler(loss, [8.0, None])
    assert loss.alpha == 8
    with torch.no_grad():
        loss.adaptation.exponent.fill_(1.0)
    scheduler.step()
    assert loss.alpha == pytest.approx(8 * 2.71828, rel=1e-5)
    state = scheduler.state_dict()
    AlphaScheduler(loss, [8.0, None]).load_state_dict(state)  # resets alpha, as it starts again
    assert loss.alpha == 8


class ReadOnly:
    """A loss whose scale cannot be set."""

    scale = property(lambda self: 1.0)


def test_what_does_not_fit_is_named_with_what_does():
    loss = SimpleNamespace(scale=1.0, name="x", count=torch.tensor(1))
    step = RAMP | {"at": 0.5}
    for target, schedule, options, message in (
        (
            object(),
            "constant",
            {"value": 1, "total": 1},
            "object: got none of the attributes alpha",
        ),
        (ReadOnly(), "constant", {"value": 1, "total": 1}, "ReadOnly: got none of the attributes"),
        (loss, "steps", step | {"total": 3}, "schedule: got 'steps', .* Did you mean 'step'"),
        (
            loss,
            "step",
            RAMP | {"total": 3},
            "step: got options end, start, expected at, end, start",
        ),
        (loss, "step", step, "total: got None, expected the number of epochs"),
        (loss, "step", step | {"total": 0}, "total: got 0"),
        (loss, "constant", {"value": 0, "total": 1}, "alpha: got 0.0, expected a finite number"),
        (loss, [1.0], {"attribute": "name"}, "SimpleNamespace.name: got 'x', expected a number"),
        (loss, [1.0], {"attribute": "count"}, "count: got tensor.*floating-point"),
    ):
        with pytest.raises(ValueError, match=message):
            AlphaScheduler(target, schedule, **options)
