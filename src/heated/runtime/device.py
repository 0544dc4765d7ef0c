"""Which device computes, with how many threads, which other processes, and how precisely."""

import ctypes
import os
import resource
import sys
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from heated.runtime.distributed import join

# of the C library's mallopt
MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1
MIB = 2**20


def prepared(threads: int) -> torch.device:
    """The GPU of this process where there is one, else the CPU; torch and the libraries beside it
    then use so many CPU threads, and `torchrun`'s processes know of each other."""
    torch.set_num_threads(threads)
    threadpool_limits(threads)
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
        # Convolutions are in TF32 by default, with 10 bits of mantissa; float32 means float32 here.
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    join(device)
    return device


def keep_memory(kept: bool) -> None:
    """Whether memory that is freed stays with this process, where the C library is GNU's.

    It gives large blocks back by itself, so that every step of a training asks for its activations
    anew, which the system then fills with zeros: a tenth of a step of GoogLeNet. Not kept is what
    the library comes to by itself once large blocks were freed: 32 MiB at most.
    """
    if sys.platform != "linux" or not hasattr(library := ctypes.CDLL(None), "mallopt"):
        return
    library.mallopt(MMAP_THRESHOLD, 1024 * MIB if kept else 32 * MIB)
    library.mallopt(TRIM_THRESHOLD, 2048 * MIB - 1 if kept else 64 * MIB)


def peak_memory(device: torch.device) -> int:
    """MiB that this process had at most so far: of the GPU's memory, or on a CPU of the machine's,
    libraries included."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) // MIB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (MIB if sys.platform == "darwin" else 1024)


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


def machine(wanted: str, device: torch.device, threads: int) -> dict[str, Any]:
    """What a training needs to know of the machine beside its own settings."""
    return {"precision": precision(wanted, device), "threads": threads}


def precision(wanted: str, device: torch.device) -> str:
    """ "float32" or "bfloat16"; for "auto" the one that the hardware is fast at."""
    return str(fast_dtype(device)).removeprefix("torch.") if wanted == "auto" else wanted
