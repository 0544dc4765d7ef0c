import numpy as np
import torch

from heated.training.train_state import AdamTF

LRS = [0.1, 0.1, 0.02, 0.5, 0.1, 0.1]
START = np.array([[1.0, -2.0], [0.5, 3.0]])
# from large to far below eps, where its place matters
GRADIENTS = np.random.default_rng(0).normal(size=(len(LRS), 2, 2)) * [[1.0, 0.1], [1e-2, 1e-4]]


def run_steps(optimizer, eps):
    """The parameter after each step."""
    parameter, values = torch.nn.Parameter(torch.from_numpy(START.copy())), []
    optimizer = optimizer([{"params": [parameter]}], lr=0.0, eps=eps)
    for gradient, lr in zip(GRADIENTS, LRS, strict=True):
        optimizer.param_groups[0]["lr"] = lr
        parameter.grad = torch.from_numpy(gradient)
        optimizer.step()
        values.append(parameter.detach().numpy().copy())
    return np.array(values)


def tensorflow_adam(eps):
    """TensorFlow 1's update, as in its documentation."""
    value, mean, square, values = START.copy(), 0.0, 0.0, []
    for t, (gradient, lr) in enumerate(zip(GRADIENTS, LRS, strict=True), start=1):
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        rate = lr * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        value = value - rate * mean / (np.sqrt(square) + eps)
        values.append(value)
    return np.array(values)


def test_adam_tf_equals_tensorflows_adam_and_differs_from_torchs():
    for eps in (0.01, 1.0, 1e-8):
        found = run_steps(AdamTF, eps)
        np.testing.assert_allclose(found, tensorflow_adam(eps), rtol=1e-9, atol=1e-12)
    assert np.abs(run_steps(torch.optim.Adam, 0.01) - run_steps(AdamTF, 0.01)).max() > 0.05
