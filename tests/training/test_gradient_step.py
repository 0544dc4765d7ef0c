"""The bookkeeping of a step with a CUDA graph, on a CPU: tests/test_gpu.py uses a real graph."""

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch
from recipes import make_recipe

from heated.models.embedding_model import Architecture, ModelWithLoss
from heated.training.gradient_step import WARM_UP, GradientStep, GraphedStep

BATCH, CLASSES = 6, 3


class Graph:
    """In place of a CUDA graph: a replay computes the recorded step again, into its tensors."""

    def replay(self):
        step = self.step
        kept = [(each, each.grad) for each in step.model.parameters()]
        result = GradientStep.__call__(step, step.prepared, step.target, BATCH)
        step.result.copy_(result)
        for (parameter, gradient), (_, static) in zip(kept, step.gradients, strict=True):
            static.copy_(parameter.grad)
            parameter.grad = gradient


@pytest.fixture
def fake_cuda(monkeypatch):
    """CUDA's streams and graphs without a GPU; the number of graphs that were recorded."""
    recorded = []

    @contextmanager
    def record(graph, *, stream, capture_error_mode):
        assert capture_error_mode == "thread_local"  # other threads use the GPU
        recorded.append(graph)
        yield

    stream = SimpleNamespace(wait_stream=lambda other: None)
    fake = {
        "Stream": lambda device: stream,
        "current_stream": lambda device: stream,
        "stream": lambda stream: nullcontext(),
        "CUDAGraph": Graph,
        "graph": record,
    }
    for name, value in fake.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return recorded


def make_model():
    recipe = make_recipe(normalize={"name": "l2"}, backbone={"name": "lenet"}, augment=[])
    torch.manual_seed(0)
    shape = {"image_shape": (28, 28, 1), "num_classes": CLASSES}
    return ModelWithLoss(Architecture.of(vars(recipe), **shape)).train()


def make_batch(model, size):
    images = torch.randint(256, (size, 28, 28, 1), dtype=torch.uint8)
    return model.prepare(images), torch.randint(CLASSES, (size,)), size


def test_after_the_warm_up_a_graph_is_replayed_for_batches_of_its_size_alone(fake_cuda):
    model, other = make_model(), make_model()
    step, plain = GraphedStep(model, "float32"), GradientStep(other, "float32")
    step.graph.step = step
    optimizers = [torch.optim.SGD(each.parameters(), lr=0.1) for each in (model, other)]
    for number in range(WARM_UP + 6):  # the first one resumes an epoch before its last batch
        batch = make_batch(model, BATCH if number % 3 else BATCH - 2)
        found, expected = step(*batch).clone(), plain(*batch)
        assert torch.equal(found, expected)
        pairs = zip(model.parameters(), other.parameters(), strict=True)
        assert all(torch.equal(one.grad, two.grad) for one, two in pairs)
        for optimizer in optimizers:
            optimizer.step()
    assert fake_cuda == [step.graph]  # once
    assert step.captured_size == BATCH
    assert all(parameter.grad is gradient for parameter, gradient in step.gradients)
