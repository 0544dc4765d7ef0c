"""Compute the gradients of a batch, on a GPU by replaying a CUDA graph.

Without a graph, Python starts each kernel of the GPU by itself. For small networks and batches this
takes longer than the kernels do. A graph starts all of a step's kernels at once.
"""

from collections import Counter

import torch
from torch import Tensor

from heated.models.embedding_model import ModelWithLoss

WARM_UP = 3  # batches of a size before its capture, in which libraries choose algorithms


class GradientStep:
    """Compute the gradients of one batch after the other."""

    def __init__(self, model: ModelWithLoss, precision: str) -> None:
        self.model, self.precision = model, precision

    def __call__(self, prepared: Tensor, target: Tensor, count: int) -> Tensor:
        """Replace all gradients by those of prepared images (B, C, H, W) with labels (B,).

        `count` is the size of the whole batch, of which these images are this process's part.
        Returns (2,): the sum of these images' losses, and their correct predictions.
        """
        self.model.zero_grad()
        raw = raw_embeddings(self.model, prepared, self.precision)
        loss, correct = self.model.head.loss_and_correct(self.model.normalization(raw), target)
        loss = loss * (len(target) / count)  # summed over processes: the batch's mean
        loss.backward()
        return torch.stack([loss.detach() * count, correct.float()])


class GraphedStep(GradientStep):
    """The same for batches of one size by a CUDA graph; other sizes run without it.

    The size is the first that occurs WARM_UP times: the last batch of an epoch may be smaller.
    Needs one process, and a loss that reads no value from the GPU. The gradients and the result are
    the graph's own tensors, which the next batch overwrites.
    """

    def __init__(self, model: ModelWithLoss, precision: str) -> None:
        super().__init__(model, precision)
        self.seen = Counter[int]()  # batches by their size, before the capture
        self.captured_size = 0
        self.stream = torch.cuda.Stream(model.device)
        self.graph = torch.cuda.CUDAGraph()

    def __call__(self, prepared: Tensor, target: Tensor, count: int) -> Tensor:
        """See GradientStep."""
        size = len(target)
        if not self.captured_size:
            current = torch.cuda.current_stream(target.device)
            self.stream.wait_stream(current)
            with torch.cuda.stream(self.stream):  # as in the capture
                result = super().__call__(prepared, target, count)
            current.wait_stream(self.stream)
            self.seen[size] += 1
            if self.seen[size] == WARM_UP:
                self.capture(prepared, target, count)
            return result
        if size != self.captured_size:
            return super().__call__(prepared, target, count)
        self.prepared.copy_(prepared)
        self.target.copy_(target)
        self.graph.replay()
        for parameter, gradient in self.gradients:
            parameter.grad = gradient
        return self.result

    def capture(self, prepared: Tensor, target: Tensor, count: int) -> None:
        """Record a step without running it; the current gradients stay."""
        parameters = [each for each in self.model.parameters() if each.requires_grad]
        current = [each.grad for each in parameters]
        self.prepared, self.target = torch.clone(prepared), torch.clone(target)
        # other threads, such as the one that reads images, may use the GPU meanwhile
        with torch.cuda.graph(self.graph, stream=self.stream, capture_error_mode="thread_local"):
            self.result = super().__call__(self.prepared, self.target, count)
        self.captured_size = len(target)
        self.gradients = [(each, each.grad) for each in parameters]
        for parameter, gradient in zip(parameters, current, strict=True):
            parameter.grad = gradient


def raw_embeddings(model: ModelWithLoss, prepared: Tensor, precision: str) -> Tensor:
    """Compute the network's output (N, D) in the precision; return it as float32."""
    with torch.autocast(prepared.device.type, torch.bfloat16, precision == "bfloat16"):
        raw: Tensor = model.network(prepared)
    return raw.float()
