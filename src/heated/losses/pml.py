"""Losses and miners of pytorch-metric-learning behind the same training loop.

The library is optional: it is imported where a method that names one of its losses is trained.
"""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from heated.common.errors import InputError, check_choice

LIBRARY = "pytorch_metric_learning"
PARTS = {  # options that are objects of the library, by its module
    "distance": "distances",
    "embedding_regularizer": "regularizers",
    "reducer": "reducers",
    "weight_regularizer": "regularizers",
}
LOSSES = {
    "arcface": "ArcFaceLoss",
    "contrastive": "ContrastiveLoss",
    "cosface": "CosFaceLoss",
    "histogram": "HistogramLoss",
    "lifted_structure": "LiftedStructureLoss",
    "margin": "MarginLoss",
    "multi_similarity": "MultiSimilarityLoss",
    "n_pairs": "NPairsLoss",
    "norm_softmax": "NormalizedSoftmaxLoss",
    "proxy_anchor": "ProxyAnchorLoss",
    "proxy_nca": "ProxyNCALoss",
    "soft_triple": "SoftTripleLoss",
    "sphereface": "SphereFaceLoss",
    "triplet": "TripletMarginLoss",
}
MINERS = {
    "distance_weighted": "DistanceWeightedMiner",
    "multi_similarity": "MultiSimilarityMiner",
    "triplet": "TripletMarginMiner",
}


class LibraryLoss(nn.Module):
    """A loss, and the miner that chooses what it compares, or None.

    Each is {"name": a key of LOSSES or MINERS, option: value}. An option that is an object of the
    library is {"name": its class, option: value}. InputError if an option is unknown, or the
    library is missing.
    """

    def __init__(
        self,
        num_classes: int,
        embedding_dim: int,
        *,
        loss: Mapping[str, Any],
        miner: Mapping[str, Any] | None,
    ) -> None:
        super().__init__()
        sizes = {"num_classes": num_classes, "embedding_size": embedding_dim}
        self.criterion = built("losses", loss, LOSSES, sizes)
        self.miner = None if miner is None else built("miners", miner, MINERS, {})

    def outcome(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of embeddings (N, D) and labels (N,), and NaN for how many are right: the
        library's losses need not know."""
        chosen = None if self.miner is None else self.miner(embeddings, labels)
        return self.criterion(embeddings, labels, chosen), embeddings.new_tensor(torch.nan)


@contextmanager
def drawing(seed: int) -> Iterator[None]:
    """Seed torch's global generators, from which miners draw; restore them at the end."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield


def check(place: str, *, loss: Mapping[str, Any], miner: Mapping[str, Any] | None) -> None:
    """Raise InputError that names the place if the library does not take the options."""
    try:
        LibraryLoss(4, 2, loss=loss, miner=miner)
    except InputError as error:
        raise InputError(f"{place}: {error}") from error


def built(
    part: str,
    choice: Mapping[str, Any],
    classes: Mapping[str, str] | None,
    sizes: Mapping[str, int],
) -> Any:
    """Return an object of the library's module `part`, with its options and the sizes it needs.

    Without `classes`, the name is that of a class.
    """
    name, given = choice["name"], {key: choice[key] for key in choice if key != "name"}
    try:
        module = import_module(f"{LIBRARY}.{part}")
    except ImportError as error:
        told = "it is pytorch-metric-learning's, which is not installed: "
        raise InputError(f"{part} {name}: {told}pip install pytorch-metric-learning") from error
    classes = classes or {each: each for each in vars(module) if each[0].isupper()}
    check_choice(f"{part} name", name, classes)
    kind = getattr(module, classes[name])
    known = options(kind)
    values: dict[str, Any] = {}
    for key, value in given.items():
        check_choice(f"{name}.{key}", key, [each for each in known if each not in sizes])
        is_part = key in PARTS and value is not None
        values[key] = built(PARTS[key], value, None, {}) if is_part else value
    needed = {key: size for key, size in sizes.items() if known.get(key) is inspect.Parameter.empty}
    try:
        return kind(**needed, **values)
    except (TypeError, ValueError, AssertionError) as error:
        raise InputError(f"{part} {name}: came {given}; {LIBRARY} refuses it: {error}") from error


def options(kind: type) -> dict[str, Any]:
    """Return the options of a class with their defaults: its own and those of its base classes, to
    which it passes options on."""
    found: dict[str, Any] = {}
    for each in kind.__mro__:
        if each.__module__.startswith(LIBRARY) and "__init__" in vars(each):
            parameters = [*inspect.signature(vars(each)["__init__"]).parameters.values()][1:]
            named = (p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL))
            found = {p.name: p.default for p in named} | found
    return found
