"""Which device computes, and with how many threads."""

import torch
from threadpoolctl import threadpool_limits


def prepared(threads: int) -> torch.device:
    """The first GPU where there is one, else the CPU; torch and the libraries beside it then use
    so many CPU threads."""
    torch.set_num_threads(threads)
    threadpool_limits(threads)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
