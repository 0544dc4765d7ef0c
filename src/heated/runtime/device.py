"""Set up the device and its threads, and report memory and fast number formats."""

import ctypes
import os
import resource
import sys
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from heated.common.io import MIB
from heated.runtime.distributed import init_process_group

MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1  # of the C library's mallopt


def setup_device(threads: int) -> torch.device:
    """Return this process's GPU, or the CPU; set CPU threads and join `torchrun`'s processes."""
    torch.set_num_threads(threads)
    threadpool_limits(threads)
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
        # Convolutions are in TF32 by default, with 10 bits of mantissa; float32 means float32 here.
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    init_process_group(device)
    return device


def keep_freed_memory(keep: bool) -> None:
    """Keep freed memory in this process, or restore the default, with the GNU C library.

    By default large blocks return to the system, which fills them with zeros when the next training
    step requests them: a tenth of a step of GoogLeNet. The default is the library's after large
    blocks were freed: 32 MiB.
    """
    if sys.platform != "linux" or not hasattr(library := ctypes.CDLL(None), "mallopt"):
        return
    library.mallopt(MMAP_THRESHOLD, 1024 * MIB if keep else 32 * MIB)
    library.mallopt(TRIM_THRESHOLD, 2048 * MIB - 1 if keep else 64 * MIB)


def peak_memory_mib(device: torch.device) -> int:
    """Return the peak memory of this process so far: the GPU's, or on a CPU all of its memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) // MIB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (MIB if sys.platform == "darwin" else 1024)


def fast_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 if the hardware multiplies it faster than float32, else float32."""
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        # torch 2.11 lacks the function
        known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        fast = bool(known.get("avx512_bf16") or known.get("amx_bf16"))
        fast = fast and torch.backends.mkldnn.is_available()
    return torch.bfloat16 if fast else torch.float32


def machine_settings(precision: str, device: torch.device, threads: int) -> dict[str, Any]:
    """Return the settings that depend on the machine; "auto" becomes its fast precision."""
    if precision == "auto":
        precision = str(fast_dtype(device)).removeprefix("torch.")
    return {"precision": precision, "threads": threads}
