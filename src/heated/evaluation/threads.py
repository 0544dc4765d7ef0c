"""Share work among threads."""

import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

SWITCH_S = 1e-4  # the threads run many short operations, and seldom wait for Python's lock then


def map_in_threads(
    function: Callable[[Any], Any], arguments: Iterable[Any], device: torch.device
) -> list[Any]:
    """Return the function's value of each argument; on a CPU, calls run in torch's threads.

    Each call uses one thread. A thread that the system delays does not make the others wait, as it
    would if all shared each operation.
    """
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    if threads == 1:
        return [function(each) for each in arguments]
    interval = sys.getswitchinterval()
    torch.set_num_threads(1)
    sys.setswitchinterval(min(interval, SWITCH_S))
    try:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(function, arguments))
    finally:
        sys.setswitchinterval(interval)
        torch.set_num_threads(threads)
