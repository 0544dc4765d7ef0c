from copy import deepcopy

import numpy as np
import torch

from heated.training.train_state import OPTIMIZERS, AdamTF

OPTIONS = {
    "sgd": {"momentum": 0.9, "weight_decay": 0.0},
    "adam": {"eps": 0.01, "weight_decay": 0.0},
    "adam_tf": {"eps": 0.01},
}
LRS = [0.1, 0.1, 0.02, 0.5, 0.1, 0.1]
START = np.array([[1.0, -2.0], [0.5, 3.0]])
# from large to far below eps, where its place matters
GRADIENTS = np.random.default_rng(0).normal(size=(len(LRS), 2, 2)) * [[1.0, 0.1], [1e-2, 1e-4]]


def run_steps(optimizer, parameter, gradients=GRADIENTS, lrs=LRS):
    """The parameter after each step."""
    values = []
    for gradient, lr in zip(gradients, lrs, strict=True):
        optimizer.param_groups[0]["lr"] = lr
        parameter.grad = torch.from_numpy(gradient)
        optimizer.step()
        values.append(parameter.detach().numpy().copy())
    return np.array(values)


def make_adam_tf(eps=0.01):
    parameter = torch.nn.Parameter(torch.from_numpy(START.copy()))
    return AdamTF([{"params": [parameter]}], lr=0.0, eps=eps), parameter


def tensorflow_adam(eps):
    """TensorFlow 1's update, as in its documentation."""
    value, mean, square, values = START.copy(), 0.0, 0.0, []
    for t, (gradient, lr) in enumerate(zip(GRADIENTS, LRS, strict=True), start=1):
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        rate = lr * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        value = value - rate * mean / (np.sqrt(square) + eps)
        values.append(value)
    return np.array(values)


def test_every_optimizer_descends_with_the_learning_rate_of_each_group():
    assert set(OPTIONS) == set(OPTIMIZERS)
    for name, options in OPTIONS.items():
        slow, fast = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
        groups = [{"params": [slow]}, {"params": [fast]}]
        optimizer = OPTIMIZERS[name](groups, lr=0.0, **options)
        for group, lr in zip(optimizer.param_groups, (0.01, 0.03), strict=True):
            group["lr"] = lr
        for parameter in (slow, fast):
            parameter.grad = torch.ones(3)
        optimizer.step()
        steps = [1 - parameter.detach() for parameter in (slow, fast)]
        assert steps[0].min() > 0
        torch.testing.assert_close(steps[1], 3 * steps[0], rtol=1e-4, atol=0)


def test_adam_tf_equals_tensorflows_adam_and_differs_from_torchs():
    for eps in (0.01, 1.0, 1e-8):
        found = run_steps(*make_adam_tf(eps))
        np.testing.assert_allclose(found, tensorflow_adam(eps), rtol=1e-9, atol=1e-12)
    parameter = torch.nn.Parameter(torch.from_numpy(START.copy()))
    torchs = run_steps(torch.optim.Adam([parameter], eps=0.01), parameter)
    assert np.abs(torchs - run_steps(*make_adam_tf())).max() > 0.05


def test_adam_tf_resumes_from_its_state_with_the_same_steps():
    first, parameter = make_adam_tf()
    run_steps(first, parameter, GRADIENTS[:4], LRS[:4])
    second, other = make_adam_tf()
    with torch.no_grad():
        other.copy_(parameter)
    second.load_state_dict(deepcopy(first.state_dict()))
    pairs = ((first, parameter), (second, other))
    ends = [run_steps(*each, GRADIENTS[4:], LRS[4:]) for each in pairs]
    np.testing.assert_array_equal(*ends)
    np.testing.assert_allclose(ends[0], tensorflow_adam(0.01)[4:], rtol=1e-9)
    (state,) = first.state_dict()["state"].values()
    assert set(state) == {"step", "exp_avg", "exp_avg_sq"}
    assert all(isinstance(value, torch.Tensor) for value in state.values())
