"""Read and write tensors as safetensors files with a digest, which finds any changed bit."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from heated.common.errors import InputError
from heated.common.io import DIGEST, atomic_write


def content_sha256(tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> str:
    """Return the SHA-256 of tensors on the CPU, with their names, types and shapes, and a record.

    Raises ValueError if the record has NaN or infinity, which JSON does not have.
    """
    layout = {name: [str(value.dtype), list(value.shape)] for name, value in tensors.items()}
    text = json.dumps(record, allow_nan=False) + json.dumps(layout, sort_keys=True)
    digest = hashlib.sha256(text.encode())
    for _, value in sorted(tensors.items()):
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], name: str, record: Mapping[str, Any]
) -> None:
    """Write tensors, and a JSON record under a name; equal content gives equal bytes.

    Raises OSError with the path if the disk is full.
    """
    kept = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    # within the record, as safetensors writes several texts in a random order
    text = json.dumps({**record, DIGEST: content_sha256(kept, record)})
    with atomic_write(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode  # by the user's umask; safetensors lets only the owner read
        try:
            save_file(kept, temporary, {name: text})
        except SafetensorError as error:
            raise OSError(f"{path}: {error}") from error
        temporary.chmod(mode)


def read_tensors(path: Path, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return tensors and record, or raise InputError if they are not those that were written.

    Files of earlier versions, which have no digest, are not checked.
    """
    try:
        with safe_open(path, "pt") as file:
            record = json.loads(file.metadata()[name])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        digest = record.pop(DIGEST, None)
        if digest not in (None, content_sha256(tensors, record)):
            raise ValueError("its content differs from its SHA-256")
    except (SafetensorError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is damaged, or of another program ({error})") from error
    return tensors, record
