"""Starting weights of a network: torchvision's ImageNet weights, or a file's.

The bottleneck, the network's last linear layer, always starts from random weights.
"""

import sys
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from heated.common.errors import InputError
from heated.common.io import project_path, sha256
from heated.models.backbones import bottleneck_name

IMAGENET = {
    "googlenet": "GoogLeNet_Weights.IMAGENET1K_V1",  # TF-slim's, as in the paper
    "resnet50": "ResNet50_Weights.IMAGENET1K_V1",  # as in most papers on metric learning
    "mobilenet_v2": "MobileNet_V2_Weights.IMAGENET1K_V1",
}
SUFFIXES = (".safetensors", ".pth")
MAX_LISTED = 10  # keys in an error message


def weights_id(weights: str, backbone: str) -> str:
    """Return "none", the name of torchvision's file (it contains a hash), or a file's SHA-256.

    Arguments and errors are those of `pretrained_state_dict`.
    """
    if weights == "none":
        return weights
    if weights == "imagenet":
        return Path(imagenet_entry(backbone).url).name
    return sha256(weights_path(weights))


def pretrained_state_dict(weights: str, backbone: str) -> dict[str, Tensor] | None:
    """Return weights by name, on the CPU: "none" (None), "imagenet", or a file's.

    A file's path is relative to the project's root. Raises InputError if there are no such weights,
    or a file is damaged, or holds code or other objects.
    """
    if weights == "none":
        return None
    if weights == "imagenet":
        return download_state_dict(imagenet_entry(backbone))
    path = weights_path(weights)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file may raise anything
        reason = str(error).partition("\n")[0]
        problem = f"{path} cannot be read as weights ({type(error).__name__}: {reason})"
        expected = "safetensors, or a state_dict written by torch.save"
        raise InputError(f"{problem}, expected {expected}") from None
    if not isinstance(loaded, dict) or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise InputError(f"{path}: got a {type(loaded).__name__}, expected only tensors by name")
    return loaded


def weights_path(weights: str) -> Path:
    """Return the path of an existing file with weights."""
    path = project_path(weights)
    if path.suffix not in SUFFIXES:
        raise InputError(f"training.weights: got {weights!r}, expected a file of {SUFFIXES}")
    if not path.is_file():
        raise InputError(f"training.weights: {path} does not exist. Put it there, or name another.")
    return path


def imagenet_entry(backbone: str) -> Any:
    """Return torchvision's entry for the backbone's ImageNet weights."""
    if backbone not in IMAGENET:
        got = f"got 'imagenet' for the backbone {backbone!r}"
        expected = f"none, the path of a file, or one of the backbones {', '.join(IMAGENET)}"
        raise InputError(f"training.weights: {got}, expected {expected}")
    from torchvision.models import get_weight  # takes a second to import

    return get_weight(IMAGENET[backbone])


def download_state_dict(entry: Any) -> dict[str, Tensor]:
    """Return the weights of a torchvision entry, from torch's cache or its URL."""
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(entry.url).name
    if cached.exists() and not sha256(cached).startswith(cached.stem.rpartition("-")[2]):
        raise InputError(f"{cached} has the wrong SHA-256, {sha256(cached)}. Remove it.")
    options = {"progress": sys.stderr.isatty(), "check_hash": True, "map_location": "cpu"}
    try:
        return dict(entry.get_state_dict(**options, weights_only=True))
    except (OSError, HTTPException, RuntimeError) as error:
        advice = f"Put the file into {cached.parent}, or set training.weights to its path."
        raise InputError(f"{entry.url} cannot be downloaded ({error}). {advice}") from None


def load_pretrained(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy weights into a network, except into its bottleneck.

    Ignores GoogLeNet's auxiliary classifiers and batch counts, which old files lack. Raises
    InputError with a list if other names or shapes differ.
    """
    ignored = (f"{bottleneck_name(network)}.", "aux1.", "aux2.")
    states: list[dict[str, Tensor]] = [{}, {}]  # those of the file and of the network
    for state, tensors in zip(states, (weights, network.state_dict()), strict=True):
        for name, tensor in tensors.items():
            if not name.startswith(ignored) and not name.endswith(".num_batches_tracked"):
                state[name] = tensor
    problems = []
    for name in sorted(states[0].keys() | states[1].keys()):
        got, want = (str(tuple(s[name].shape)) if name in s else "none" for s in states)
        if got != want:
            problems.append(f"{name}: got {got}, expected {want}")
    if problems:
        count = len(problems)
        more = [f"and {count - MAX_LISTED} more"] if count > MAX_LISTED else []
        heading = f"training.weights: {count} keys do not fit the network:"
        raise InputError("\n  ".join([heading, *problems[:MAX_LISTED], *more]))
    network.load_state_dict(states[0], strict=False)
