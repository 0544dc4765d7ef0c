"""Losses and miners of pytorch-metric-learning behind the same loop. The library is optional: it is
imported where a method that names one of its losses is trained, and nowhere else."""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from heated.common.errors import InputError

LIBRARY = "pytorch_metric_learning"
PARTS = {  # options that are objects of the library's
    "distance": "distances",
    "embedding_regularizer": "regularizers",
    "reducer": "reducers",
    "weight_regularizer": "regularizers",
}


class LibraryLoss(nn.Module):
    """A loss of the library's, over C classes where it has a weight for each, and embeddings of D
    dimensions, with the miner that chooses what it compares, or none.

    loss, miner: {"name": a key of LOSSES, of MINERS, option: value}. An option that is an object of
    the library's is {"name": its class, option: value}. InputError where an option is unknown, or
    the library is missing.
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
        """The loss of a batch, embeddings (N, D) float and labels (N,) int64 in [0, C), and NaN for
        how many are right: the library's losses need not say which class is likeliest."""
        chosen = None if self.miner is None else self.miner(embeddings, labels)
        return self.criterion(embeddings, labels, chosen), embeddings.new_tensor(torch.nan)


@contextmanager
def drawing(seed: int) -> Iterator[None]:
    """What draws from torch's global generators within begins at the seed, as the library's miners
    do; afterwards they are as they were."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield


def check(place: str, *, loss: Mapping[str, Any], miner: Mapping[str, Any] | None) -> None:
    """InputError that names the place, unless the library has them with these options."""
    try:
        LibraryLoss(4, 2, loss=loss, miner=miner)
    except InputError as error:
        raise InputError(f"{place}: {error}") from error


def built(
    part: str, choice: Mapping[str, Any], names: Mapping[str, str], sizes: Mapping[str, int]
) -> Any:
    """The object of the library's module `part` that a choice names, with its options, and those
    sizes that it cannot do without. InputError for what it does not take."""
    name, given = choice["name"], {key: choice[key] for key in choice if key != "name"}
    kind = getattr(library(part, name), one_of(f"{part} name", name, names))
    known = options(kind)
    for key in given:
        one_of(f"{name}.{key}", key, [each for each in known if each not in sizes])
    needed = {key: size for key, size in sizes.items() if known.get(key) is inspect.Parameter.empty}
    values = {key: value(key, given[key]) for key in given}
    try:
        return kind(**needed, **values)
    except (TypeError, ValueError, AssertionError) as error:
        raise InputError(f"{part} {name}: came {given}; {LIBRARY} refuses it: {error}") from error


def library(part: str, name: str) -> Any:
    """A module of the library's; InputError that says how to install it where it is not."""
    try:
        return import_module(f"{LIBRARY}.{part}")
    except ImportError as error:
        raise InputError(
            f"{part} {name}: it is pytorch-metric-learning's, which is not installed: "
            "pip install pytorch-metric-learning"
        ) from error


def options(kind: type) -> dict[str, Any]:
    """What a class of the library's takes, with what stands there by default: of its own, and of
    the classes it comes from, since they pass options on."""
    found: dict[str, Any] = {}
    for each in kind.__mro__:
        if each.__module__.startswith(LIBRARY) and "__init__" in vars(each):
            parameters = list(inspect.signature(vars(each)["__init__"]).parameters.values())[1:]
            named = (p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL))
            found = {p.name: p.default for p in named} | found
    return found


def value(key: str, given: Any) -> Any:
    """An option's value; an object where it is a choice among the library's."""
    if key not in PARTS or given is None:
        return given
    part = import_module(f"{LIBRARY}.{PARTS[key]}")
    return built(PARTS[key], given, {name: name for name in vars(part) if name[0].isupper()}, {})


def one_of(place: str, came: str, allowed: Mapping[str, str] | list[str]) -> str:
    """The library's name for what came; InputError that names the nearest where there is none."""
    if came not in allowed:
        near = get_close_matches(came, list(allowed), n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(f"{place}: came {came!r}; allowed: {', '.join(sorted(allowed))}{hint}")
    return allowed[came] if isinstance(allowed, Mapping) else came


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
