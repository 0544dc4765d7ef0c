"""One computation shared by the processes that `torchrun` starts; alone, everything is one's own.

Evaluation: each process takes its share of independent pieces, writes them into zeros, and all are
summed: x + 0 is x, so the result is the same bits as of one process. Training: each takes its part
of every batch; batch norm and gradients are of the whole batch.
"""

import atexit
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from heated.common.io import whole

T = TypeVar("T")


def join(device: torch.device) -> None:
    """Meet the other processes, where `torchrun` started this one."""
    if distributed.is_available() and distributed.is_torchelastic_launched() and not joined():
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        atexit.register(distributed.destroy_process_group)  # else its threads may abort the end


def joined() -> bool:
    """Whether there are other processes."""
    return distributed.is_available() and distributed.is_initialized()


def place() -> tuple[int, int]:
    """This process's number, from 0, and how many there are."""
    return (distributed.get_rank(), distributed.get_world_size()) if joined() else (0, 1)


def first() -> bool:
    """Whether this is the process that writes."""
    return place()[0] == 0


@contextmanager
def output(path: Path) -> Iterator[Path]:
    """`whole(path)` for the process that writes; for the others, somewhere that is forgotten."""
    with TemporaryDirectory() as folder, whole(path if first() else Path(folder) / "any") as out:
        yield out


def mine(pieces: Sequence[T]) -> Sequence[T]:
    """This process's share of the pieces: every n-th, so that the shares are equally heavy."""
    rank, count = place()
    return pieces[rank::count]


def part(size: int) -> slice:
    """This process's part of a batch of so many.

    >>> part(8)
    slice(0, 8, None)
    """
    rank, count = place()
    return slice(rank * size // count, (rank + 1) * size // count)


def summed(values: Tensor) -> Tensor:
    """The sum over the processes, in place."""
    if joined():
        distributed.all_reduce(values)
    return values


def agreed(number: int, device: torch.device) -> int:
    """The first process's number."""
    return int(summed(torch.tensor(number if first() else 0, device=device)).item())


def sum_gradients(parameters: Iterable[Tensor], *beside: Tensor) -> None:
    """Sum gradients, and other tensors, over the processes, in place and at once."""
    if not joined():
        return
    each = [*(p.grad for p in parameters if p.grad is not None), *beside]
    flat = summed(torch.cat([values.reshape(-1).float() for values in each]))
    pieces = flat.split([values.numel() for values in each])
    for values, piece in zip(each, pieces, strict=True):
        values.copy_(piece.view(values.shape))


def share_batch_norm(model: nn.Module) -> None:
    """Let every batch norm of the model see the whole batch while it trains, on any device."""
    if joined():
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.forward = partial(batch_norm, module)  # type: ignore[method-assign]


def batch_norm(layer: Any, images: Tensor) -> Tensor:
    """Batch norm with mean and variance over all processes; images (N, C, ...)."""
    if not layer.training:
        return type(layer).forward(layer, images)
    dims = [0, *range(2, images.ndim)]
    shape = [1, -1, *[1] * (images.ndim - 2)]
    values = images.float()
    count = SumOverProcesses.apply(values.new_tensor(values.numel() / values.shape[1]))
    mean = SumOverProcesses.apply(values.sum(dims)) / count
    centred = values - mean.view(shape)
    variance = SumOverProcesses.apply(centred.square().sum(dims)) / count
    with torch.no_grad():
        layer.num_batches_tracked += 1
        layer.running_mean.lerp_(mean, layer.momentum)
        layer.running_var.lerp_(variance * count / (count - 1), layer.momentum)
    standard = centred * (variance + layer.eps).rsqrt().view(shape)
    if layer.weight is not None:
        standard = standard * layer.weight.view(shape) + layer.bias.view(shape)
    return standard.to(images.dtype)


class SumOverProcesses(torch.autograd.Function):
    """A sum over the processes whose gradient is one too."""

    @staticmethod
    def forward(_: Any, values: Tensor) -> Tensor:
        """The sum."""
        return summed(values.clone())

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> Tensor:
        """Each process's part of the sum has every process's gradient."""
        return summed(gradients[0].clone())
