"""Which device computes, with how many threads, which other processes, and how precisely."""

import os
from typing import Any

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


def fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware multiplies it faster than float32, else float32."""
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        # torch 2.11 cannot tell
        known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        fast = bool(known.get("avx512_bf16") or known.get("amx_bf16"))
        fast = fast and torch.backends.mkldnn.is_available()
    return torch.bfloat16 if fast else torch.float32


def precision(wanted: str, device: torch.device) -> str:
    """ "float32" or "bfloat16"; for "auto" the one that the hardware is fast at."""
    return str(fast_dtype(device)).removeprefix("torch.") if wanted == "auto" else wanted
