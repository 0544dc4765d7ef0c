"""Losses and miners of pytorch-metric-learning (PML) for the same training loop.

The library is optional: it is imported when one of its losses is built.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from inspect import Parameter, signature
from typing import Any

import torch
from torch import Tensor, nn

from heated.common.errors import InputError, check_choice

LIBRARY = "pytorch_metric_learning"
Config = Mapping[str, Any]  # {"name": ..., option: value, ...}
COMPONENTS = {  # options whose values are objects, with the library's module
    **{"distance": "distances", "reducer": "reducers"},
    **dict.fromkeys(("embedding_regularizer", "weight_regularizer"), "regularizers"),
}
LOSSES = {
    "arcface": "ArcFaceLoss",
    "circle": "CircleLoss",
    "contrastive": "ContrastiveLoss",
    "cosface": "CosFaceLoss",
    "histogram": "HistogramLoss",
    "lifted_structure": "LiftedStructureLoss",
    "margin": "MarginLoss",
    "multi_similarity": "MultiSimilarityLoss",
    "n_pairs": "NPairsLoss",
    "norm_softmax": "NormalizedSoftmaxLoss",
    "ntxent": "NTXentLoss",
    "proxy_anchor": "ProxyAnchorLoss",
    "proxy_nca": "ProxyNCALoss",
    "soft_triple": "SoftTripleLoss",
    "sphereface": "SphereFaceLoss",
    "subcenter_arcface": "SubCenterArcFaceLoss",
    "supcon": "SupConLoss",
    "triplet": "TripletMarginLoss",
}
SCALES = {  # the option of a loss that is a scale or temperature, and its attribute's name too
    **dict.fromkeys(("arcface", "cosface", "sphereface", "subcenter_arcface"), "scale"),
    **dict.fromkeys(("norm_softmax", "ntxent", "supcon"), "temperature"),
    "circle": "gamma",
    "proxy_anchor": "alpha",
    "proxy_nca": "softmax_scale",
    "soft_triple": "la",
}
MINERS = {
    "distance_weighted": "DistanceWeightedMiner",
    "multi_similarity": "MultiSimilarityMiner",
    "triplet": "TripletMarginMiner",
}


class PMLLoss(nn.Module):
    """A loss of LOSSES with an optional miner of MINERS; InputError if the library rejects them.

    An option that is an object of the library is the name of its class with options in turn. The
    scale of a loss in SCALES may be "alpha": `scale_option` names it, for an AlphaScheduler of the
    `criterion`, which has the library's default until then.
    """

    def __init__(
        self, num_classes: int, embedding_dim: int, *, loss: Config, miner: Config | None
    ) -> None:
        super().__init__()
        sizes = {"num_classes": num_classes, "embedding_size": embedding_dim}
        self.scale_option = scale_option(loss)
        loss = {key: value for key, value in loss.items() if key != self.scale_option}
        self.criterion = instantiate("losses", loss, LOSSES, sizes)
        self.miner = instantiate("miners", miner, MINERS) if miner else None

    def loss_and_correct(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the loss; the number of correct samples is NaN, as most losses define none."""
        pairs = None if self.miner is None else self.miner(embeddings, labels)
        return self.criterion(embeddings, labels, pairs), embeddings.new_tensor(torch.nan)


@contextmanager
def forked_rng(seed: int) -> Iterator[None]:
    """Seed torch's global generators, which miners use, and restore them on exit."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield


def check_options(where: str, *, loss: Config, miner: Config | None) -> None:
    """Raise InputError, starting with `where`, if the library rejects the options."""
    try:
        PMLLoss(4, 2, loss=loss, miner=miner)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def scale_option(loss: Config) -> str | None:
    """Return the option that is "alpha", or None; raise InputError if it is no scale."""
    scale = SCALES.get(loss["name"])
    for key in [key for key, value in loss.items() if value == "alpha" and key != "name"]:
        if key != scale:
            expected = f"it for {scale!r}" if scale else f"a loss with a scale: {', '.join(SCALES)}"
            raise InputError(f"{loss['name']}.{key}: got 'alpha', expected {expected}")
        return key
    return None


def instantiate(
    module_name: str,
    config: Config,
    classes: Mapping[str, str] | None = None,
    sizes: Mapping[str, int] | None = None,
) -> Any:
    """Build an object of a module of the library, such as "losses", from its name and options.

    `classes`: class names by name, by default all. `sizes` are passed to classes that require them.
    """
    name, sizes = config["name"], sizes or {}
    try:
        module = import_module(f"{LIBRARY}.{module_name}")
    except ImportError as error:
        problem = "pytorch-metric-learning is not installed."
        advice = "Run `pip install pytorch-metric-learning`."
        raise InputError(f"{module_name} {name}: {problem} {advice}") from error
    names = classes or [name for name in vars(module) if name[0].isupper()]
    check_choice(f"{module_name} name", name, names)
    cls = getattr(module, classes[name] if classes else name)
    defaults = init_defaults(cls)
    required = {key: sizes[key] for key in sizes if defaults.get(key) is Parameter.empty}
    options = {key: value for key, value in config.items() if key != "name"}
    for key, value in options.items():
        check_choice(f"{name}.{key}", key, [option for option in defaults if option not in sizes])
        if key in COMPONENTS and value is not None:
            options[key] = instantiate(COMPONENTS[key], value)
    try:
        return cls(**required, **options)
    except (TypeError, ValueError, AssertionError) as error:
        problem = f"got {options}, rejected by {LIBRARY}: {error}"
        raise InputError(f"{module_name} {name}: {problem}") from error


def init_defaults(cls: type) -> dict[str, Any]:
    """Return the defaults of all arguments that a class and its base classes take."""
    defaults: dict[str, Any] = {}
    for base in cls.__mro__:
        if base.__module__.startswith(LIBRARY) and "__init__" in vars(base):
            parameters = [*signature(vars(base)["__init__"]).parameters.values()][1:]
            named = (p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL))
            defaults = {p.name: p.default for p in named} | defaults
    return defaults
