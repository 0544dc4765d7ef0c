"""Which device computes, with how many threads and which other processes."""

import os

import torch
from threadpoolctl import threadpool_limits

from heated.distributed import join


def prepared(threads: int) -> torch.device:
    """The GPU of this process where there is one, else the CPU; torch and the libraries beside it
    then use so many CPU threads, and `torchrun`'s processes know of each other."""
    torch.set_num_threads(threads)
    threadpool_limits(threads)
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    join(device)
    return device
