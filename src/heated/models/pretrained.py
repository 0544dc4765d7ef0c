"""Weights that a network starts from: ImageNet's as torchvision offers them, or a file's.

Its last linear layer, the bottleneck, takes none of them: it is drawn for each seed.
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
from heated.common.io import project_root, sha256
from heated.models.backbones import bottleneck

IMAGENET = {
    "googlenet": "GoogLeNet_Weights.IMAGENET1K_V1",  # TF-slim's, which the paper began with
    "resnet50": "ResNet50_Weights.IMAGENET1K_V1",  # the one that papers on metric learning use
    "mobilenet_v2": "MobileNet_V2_Weights.IMAGENET1K_V1",
}
SUFFIXES = (".safetensors", ".pth")
TOLD = 10  # keys that an error lists


def identity(weights: str, backbone: str) -> str:
    """Return what tells weights apart: "none", the name of ImageNet's file, which has its hash, or
    a file's SHA-256. InputError if there are no such weights."""
    if weights == "none":
        return weights
    return Path(imagenet(backbone).url).name if weights == "imagenet" else sha256(located(weights))


def tensors(weights: str, backbone: str) -> dict[str, Tensor] | None:
    """Return the weights by name, on the CPU: "imagenet" for the backbone, or a file's, by its path
    from the project's root; None for "none". InputError if they cannot be had."""
    if weights == "none":
        return None
    return downloaded(imagenet(backbone)) if weights == "imagenet" else read(located(weights))


def located(weights: str) -> Path:
    """Return the path of a file with weights; a relative one is from the project's root."""
    path = project_root() / weights
    if path.suffix not in SUFFIXES:
        raise InputError(f"training.weights: came {weights!r}; allowed: a file of {SUFFIXES}")
    if not path.is_file():
        advice = "put the file there, or write the path of another"
        raise InputError(f"training.weights: {path} is missing; {advice}")
    return path


def read(path: Path) -> dict[str, Tensor]:
    """Read a file's tensors; raise InputError if it is damaged, or holds code or anything else."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file may raise anything
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"{path} cannot be read as weights ({type(error).__name__}: {reason}); allowed: "
            "safetensors, or what torch.save wrote of a state_dict"
        ) from None
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()):
        raise InputError(f"{path} holds a {type(found).__name__}; allowed: tensors by name alone")
    return found


def imagenet(backbone: str) -> Any:
    """Return torchvision's entry for the backbone's ImageNet weights."""
    if backbone not in IMAGENET:
        raise InputError(
            f"training.weights: came 'imagenet' for the backbone {backbone!r}; allowed: none, the "
            f"path of a file, or one of the backbones {', '.join(IMAGENET)}"
        )
    from torchvision.models import get_weight  # takes a second: only where wanted

    return get_weight(IMAGENET[backbone])


def downloaded(entry: Any) -> dict[str, Tensor]:
    """Return the weights of one of torchvision's entries, from torch's cache or its address."""
    place = Path(torch.hub.get_dir()) / "checkpoints" / Path(entry.url).name
    if place.exists() and not sha256(place).startswith(place.stem.rpartition("-")[2]):
        raise InputError(f"{place} is not the file, by its SHA-256 {sha256(place)}: remove it")
    options = {"progress": sys.stderr.isatty(), "check_hash": True, "map_location": "cpu"}
    try:
        found: dict[str, Tensor] = entry.get_state_dict(**options, weights_only=True)
    except (OSError, HTTPException, RuntimeError) as error:
        raise InputError(
            f"{entry.url} could not be had ({error}): put the file into {place.parent}, or write "
            "its path as training.weights"
        ) from None
    return found


def begin_with(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy the weights into the network, all of it but the bottleneck.

    GoogLeNet's auxiliary classifiers are left out, and how many batches were seen, which old files
    lack. InputError lists the keys that are missing, unknown, or of another shape.
    """
    above = (f"{bottleneck(network)}.", "aux1.", "aux2.")
    wanted, given = (
        {
            name: weight
            for name, weight in each.items()
            if not name.startswith(above) and not name.endswith(".num_batches_tracked")
        }
        for each in (network.state_dict(), weights)
    )
    wrong = []
    for name in sorted(wanted.keys() | given.keys()):
        shapes = [str(tuple(t[name].shape)) if name in t else "nothing" for t in (given, wanted)]
        if shapes[0] != shapes[1]:
            wrong.append(f"{name}: came {shapes[0]}; allowed: {shapes[1]}")
    if wrong:
        more = [f"and {len(wrong) - TOLD} more"] if len(wrong) > TOLD else []
        heading = f"training.weights: {len(wrong)} keys do not fit the network:"
        raise InputError("\n  ".join([heading, *wrong[:TOLD], *more]))
    network.load_state_dict(given, strict=False)
