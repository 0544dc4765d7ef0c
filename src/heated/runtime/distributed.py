"""Share one computation among the processes started by `torchrun`.

Without `torchrun` every function is a no-op for a single process.

Evaluation: each process computes every `world_size`-th block and writes it into zeros; summing the
results over processes gives the same bits as one process. Training: each process computes its
slice of every batch; batch norm statistics and gradients are those of the whole batch.
"""

import atexit
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from heated.common.io import atomic_write

T = TypeVar("T")


def init_process_group(device: torch.device) -> None:
    """Join the process group if this process was started by `torchrun`."""
    if dist.is_available() and dist.is_torchelastic_launched() and not is_distributed():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        atexit.register(dist.destroy_process_group)  # its threads can abort interpreter shutdown


def is_distributed() -> bool:
    """Return whether this process has joined a process group."""
    return dist.is_available() and dist.is_initialized()


def rank_and_world_size() -> tuple[int, int]:
    """Return this process's rank and the number of processes, (0, 1) without `torchrun`."""
    return (dist.get_rank(), dist.get_world_size()) if is_distributed() else (0, 1)


def is_main_process() -> bool:
    """Return whether this is the process that writes files."""
    return rank_and_world_size()[0] == 0


@contextmanager
def main_process_output(path: Path) -> Iterator[Path]:
    """Yield a temporary path, which is renamed to `path` in the main process only."""
    with TemporaryDirectory() as folder:
        written = path if is_main_process() else Path(folder) / "discarded"
        with atomic_write(written) as temporary:
            yield temporary


def local_shard(blocks: Sequence[T]) -> Sequence[T]:
    """Return this process's blocks: every `world_size`-th, for equal loads."""
    rank, world_size = rank_and_world_size()
    return blocks[rank::world_size]


def local_slice(batch_size: int) -> slice:
    """Return this process's contiguous slice of a batch.

    >>> local_slice(8)  # one process
    slice(0, 8, None)
    """
    rank, world_size = rank_and_world_size()
    return slice(rank * batch_size // world_size, (rank + 1) * batch_size // world_size)


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Sum a tensor over all processes, in place, and return it."""
    if is_distributed():
        dist.all_reduce(tensor)
    return tensor


def broadcast_int(number: int, device: torch.device) -> int:
    """Return the main process's number."""
    term = torch.tensor(number if is_main_process() else 0, device=device)
    return int(all_reduce_sum(term).item())


def all_reduce_gradients(parameters: Iterable[Tensor], *tensors: Tensor) -> None:
    """Sum gradients and other tensors over all processes, in place and in one operation."""
    if not is_distributed():
        return
    each = [*(p.grad for p in parameters if p.grad is not None), *tensors]
    flat = all_reduce_sum(torch.cat([values.reshape(-1).float() for values in each]))
    pieces = flat.split([values.numel() for values in each])
    for values, piece in zip(each, pieces, strict=True):
        values.copy_(piece.view(values.shape))


def sync_batch_norm(model: nn.Module) -> None:
    """Make batch norm in training use the whole batch's statistics, on any device.

    PyTorch's layer does so on GPUs only. Parameters, buffers and their names stay.
    """
    if not is_distributed():
        return
    if next(model.parameters()).is_cuda:
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.forward = partial(batch_norm, module)  # type: ignore[method-assign]


def batch_norm(layer: Any, images: Tensor) -> Tensor:
    """Apply batch norm with mean and variance over all processes to images (N, C, ...)."""
    if not layer.training:
        return type(layer).forward(layer, images)
    dims, shape = [0, *range(2, images.ndim)], [1, -1, *[1] * (images.ndim - 2)]
    values = images.float()
    count = AllReduceSum.apply(values.new_tensor(values.numel() / values.shape[1]))
    mean = AllReduceSum.apply(values.sum(dims)) / count
    centered = values - mean.view(shape)
    variance = AllReduceSum.apply(centered.square().sum(dims)) / count
    with torch.no_grad():
        layer.num_batches_tracked += 1
        layer.running_mean.lerp_(mean, layer.momentum)
        layer.running_var.lerp_(variance * count / (count - 1), layer.momentum)
    normalized = centered * (variance + layer.eps).rsqrt().view(shape)
    if layer.weight is not None:
        normalized = normalized * layer.weight.view(shape) + layer.bias.view(shape)
    return normalized.to(images.dtype)


class AllReduceSum(torch.autograd.Function):
    """Sum over all processes; the gradient is the sum of all processes' gradients."""

    @staticmethod
    def forward(_: Any, values: Tensor) -> Tensor:
        """Return the sum."""
        return all_reduce_sum(values.clone())

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> Tensor:
        """Return the sum of the gradients."""
        return all_reduce_sum(gradients[0].clone())
