"""One computation shared by the processes that `torchrun` starts; alone, everything is one's own.

Each process takes its share of independent pieces, writes them into zeros, and all are summed:
x + 0 is x, so the result is the same bits as of one process.
"""

import atexit
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, distributed

T = TypeVar("T")


def joined() -> bool:
    """Whether there are other processes."""
    return distributed.is_available() and distributed.is_initialized()


def first() -> bool:
    """Whether this is the process that writes results."""
    return not joined() or distributed.get_rank() == 0


def mine(pieces: Sequence[T]) -> Sequence[T]:
    """This process's share of the pieces: every n-th, so that the shares are equally heavy."""
    if not joined():
        return pieces
    return pieces[distributed.get_rank() :: distributed.get_world_size()]


def summed(values: Tensor) -> Tensor:
    """The sum over the processes, in place."""
    if joined():
        distributed.all_reduce(values)
    return values


def join(device: torch.device) -> None:
    """Meet the other processes, where `torchrun` started this one."""
    if distributed.is_available() and distributed.is_torchelastic_launched() and not joined():
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        atexit.register(distributed.destroy_process_group)  # else its threads may abort the end
