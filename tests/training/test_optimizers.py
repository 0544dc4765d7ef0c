from copy import deepcopy

import numpy as np
import pytest
import torch

from heated.training.optimizers import OPTIMISERS, AdamTF

OPTIONS = {
    "sgd": {"momentum": 0.9, "weight_decay": 0.0},
    "adam": {"eps": 0.01, "weight_decay": 0.0},
    "adam_tf": {"eps": 0.01},
}
LRS = [0.1, 0.1, 0.02, 0.5, 0.1, 0.1]
START = np.array([[1.0, -2.0], [0.5, 3.0]])
# from large to far below eps, where its place matters
SLOPES = np.random.default_rng(0).normal(size=(len(LRS), 2, 2)) * [[1.0, 0.1], [1e-2, 1e-4]]


def walked(optimiser, parameter, slopes=SLOPES, lrs=LRS):
    """The parameter after each step."""
    places = []
    for slope, lr in zip(slopes, lrs, strict=True):
        optimiser.param_groups[0]["lr"] = lr
        parameter.grad = torch.from_numpy(slope)
        optimiser.step()
        places.append(parameter.detach().numpy().copy())
    return np.array(places)


def built(eps=0.01):
    parameter = torch.nn.Parameter(torch.from_numpy(START.copy()))
    return AdamTF([{"params": [parameter]}], lr=0.0, eps=eps), parameter


def tensorflows(eps, slopes=SLOPES, lrs=LRS):
    """TensorFlow 1's update, as its documentation has it."""
    place, mean, square, places = START.copy(), 0.0, 0.0, []
    for t, (slope, lr) in enumerate(zip(slopes, lrs, strict=True), start=1):
        mean, square = 0.9 * mean + 0.1 * slope, 0.999 * square + 0.001 * slope**2
        rate = lr * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        place = place - rate * mean / (np.sqrt(square) + eps)
        places.append(place)
    return np.array(places)


def test_every_optimiser_is_tested_here():
    assert set(OPTIONS) == set(OPTIMISERS)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_a_step_goes_down_by_each_groups_own_rate(name):
    near, far = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    groups = [{"params": [near]}, {"params": [far]}]
    optimiser = OPTIMISERS[name](groups, lr=0.0, **OPTIONS[name])
    for group, lr in zip(optimiser.param_groups, (0.01, 0.03), strict=True):
        group["lr"] = lr
    for parameter in (near, far):
        parameter.grad = torch.ones(3)
    optimiser.step()
    steps = [1 - parameter.detach() for parameter in (near, far)]
    assert steps[0].min() > 0
    torch.testing.assert_close(steps[1], 3 * steps[0], rtol=1e-4, atol=0)


def test_adam_tf_places_epsilon_as_tensorflow_does_and_torchs_adam_does_not():
    for eps in (0.01, 1.0, 1e-8):
        np.testing.assert_allclose(walked(*built(eps)), tensorflows(eps), rtol=1e-9, atol=1e-12)
    parameter = torch.nn.Parameter(torch.from_numpy(START.copy()))
    theirs = walked(torch.optim.Adam([parameter], eps=0.01), parameter)
    ours = walked(*built())
    assert np.abs(theirs - ours).max() > 0.05


def test_adam_tf_goes_on_from_its_state_as_if_nothing_had_been():
    first, parameter = built()
    walked(first, parameter, SLOPES[:4], LRS[:4])
    again, other = built()
    with torch.no_grad():
        other.copy_(parameter)
    again.load_state_dict(deepcopy(first.state_dict()))
    ends = [walked(*each, SLOPES[4:], LRS[4:]) for each in ((first, parameter), (again, other))]
    np.testing.assert_array_equal(*ends)
    np.testing.assert_allclose(ends[0], tensorflows(0.01)[4:], rtol=1e-9)
    (state,) = first.state_dict()["state"].values()
    assert set(state) == {"step", "exp_avg", "exp_avg_sq"}
    assert all(isinstance(value, torch.Tensor) for value in state.values())
