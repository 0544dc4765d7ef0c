"""Set up the device, its threads and number formats; copy to it and report its memory."""

import ctypes
import os
import resource
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from heated.common.errors import InputError
from heated.common.io import MIB
from heated.runtime.distributed import init_process_group, rank_and_world_size

MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1  # of the C library's mallopt
JOBS = "HEATED_JOBS"  # variable with the number of processes that share the device
BACKENDS: Any = torch.backends
FORMATS = {  # PyTorch's settings of the number format of float32 operations
    "cuda.matmul": BACKENDS.cuda.matmul,
    "cudnn.conv": BACKENDS.cudnn.conv,
    "cudnn.rnn": BACKENDS.cudnn.rnn,
    "mkldnn.matmul": BACKENDS.mkldnn.matmul,
    "mkldnn.conv": BACKENDS.mkldnn.conv,
}


def setup_device(threads: int, deterministic: bool = False) -> torch.device:
    """Return this process's GPU, or the CPU; set CPU threads and join `torchrun`'s processes.

    `deterministic`: the same bits in every run on one kind of GPU. PyTorch warns of an operation
    that it can only compute otherwise. On a CPU nothing changes.
    """
    torch.set_num_threads(threads)
    threadpool_limits(threads)
    if deterministic:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # read when cuBLAS starts
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
        # Convolutions are in TF32 by default, with 10 bits of mantissa; float32 means float32 here.
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    init_process_group(device)
    return device


@contextmanager
def float32_products(*, tf32: bool = False) -> Iterator[None]:
    """Compute float32 products and convolutions in float32, or on a GPU in TF32; also a decorator.

    Sums of bfloat16 products are float32, too. Every setting is restored at the end: those of
    another library or of TORCH_ALLOW_TF32_CUBLAS_OVERRIDE apply outside.
    """
    matmul, formats = torch.backends.cuda.matmul, FORMATS.values()
    reduced = matmul.allow_bf16_reduced_precision_reduction
    saved = [each.fp32_precision for each in formats]
    try:
        matmul.allow_bf16_reduced_precision_reduction = False
        for name, each in FORMATS.items():
            each.fp32_precision = "tf32" if tf32 and not name.startswith("mkldnn") else "ieee"
        yield
    finally:
        matmul.allow_bf16_reduced_precision_reduction = reduced
        for each, value in zip(formats, saved, strict=True):
            each.fp32_precision = value


def backend_settings() -> dict[str, Any]:
    """Return versions and settings of CUDA's libraries that can change results."""
    return {
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        **{f"{n}.fp32_precision": each.fp32_precision for n, each in FORMATS.items()},
        "cudnn.benchmark": torch.backends.cudnn.benchmark,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a CPU tensor to a device; the CPU does not wait for the copy."""
    if device.type == "cuda" and torch.cuda.is_initialized():
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def batches_to_device(batches: Sequence[Tensor], device: torch.device) -> Sequence[Tensor]:
    """Copy CPU tensors (B, ...) to a device in one copy, which the CPU does not wait for."""
    if device.type == "cpu" or not batches:
        return batches
    return to_device(torch.cat([*batches]), device).split([len(batch) for batch in batches])


def image_budget(device: torch.device) -> float:
    """Return how many bytes of a GPU images may take: half of what this process may use.

    Processes of `make repro JOBS=n` share the GPU; the other half is for their training steps.
    """
    free, total = torch.cuda.mem_get_info(device)
    return float(min(free, total / int(os.environ.get(JOBS, "1")))) / 2


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
    """Return the peak memory of this process so far: the GPU's, or on a CPU all of its memory.

    The GPU's is what PyTorch reserved: a CUDA graph's memory is in use between its steps, too.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) // MIB
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
        # ATEN_CPU_CAPABILITY may forbid instructions that the processor has
        fast = fast and torch.backends.cpu.get_cpu_capability() == "AVX512"
    return torch.bfloat16 if fast else torch.float32


def has_tf32(device: torch.device) -> bool:
    """Return whether the device is an NVIDIA GPU from Ampere on."""
    is_nvidia = device.type == "cuda" and torch.version.cuda is not None
    return is_nvidia and torch.cuda.get_device_capability(device) >= (8, 0)


def machine_settings(
    settings: Mapping[str, Any], device: torch.device, threads: int, deterministic: bool = False
) -> dict[str, Any]:
    """Return the settings of a training that depend on the machine, as they apply here.

    The precision "auto" becomes the fast one. CUDA graphs need a GPU, one process, and the heated
    softmax: other losses may read values from the GPU. Raises InputError for "tf32" on a device
    that has no such format.
    """
    precision = settings["precision"]
    if precision == "auto":
        precision = str(fast_dtype(device)).removeprefix("torch.")
    if precision == "tf32" and not has_tf32(device):
        raise InputError(
            f"precision: got 'tf32' on {device.type}, which has no TF32, expected float32, "
            "bfloat16 or auto. Set `training.precision` of the data set."
        )
    can_graph = device.type == "cuda" and rank_and_world_size()[1] == 1
    return {
        "precision": precision,
        "threads": threads,
        "deterministic": deterministic,
        "cuda_graphs": can_graph and settings["cuda_graphs"] and not settings.get("loss"),
    }


def machine_kmeans(kmeans: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Return the settings of k-means; "auto" becomes the engine that is faster on the device.

    It is lloyd on a GPU and where products in bfloat16 are fast, else scikit-learn.
    """
    if kmeans["name"] != "auto":
        return dict(kmeans)
    if device.type == "cuda" or fast_dtype(device) == torch.bfloat16:
        return {**kmeans, "name": "lloyd"}
    return {"name": "scikit-learn", "restarts": kmeans["restarts"]}
