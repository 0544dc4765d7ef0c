"""The paper's own results, and which runs they may stand beside: only those by its own protocol.

Tables of arXiv 1809.04157, in percent: one training each, GoogLeNet, D = 64 where no other is said.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from heated.common.samples import SEEN, UNSEEN
from heated.reporting.makings import text

Options = Mapping[str, Any]

COLUMNS = {
    "cars196": ("nmi_geometric", "recall_at_1", "recall_at_2", "recall_at_4"),
    "cub200": ("nmi_geometric", "recall_at_1", "recall_at_2", "recall_at_4"),
    "sop": ("nmi_geometric", "recall_at_1", "recall_at_10", "recall_at_100"),
    "in-shop": ("recall_at_1", "recall_at_10", "recall_at_20", "recall_at_30"),
}
ROWS = {
    "cars196": {
        "sm": (59.52, 60.76, 73.58, 82.50),
        "ln": (62.40, 68.59, 78.55, 86.18),
        "bn": (65.81, 71.12, 80.62, 87.82),
        "hln": (66.87, 71.93, 81.68, 88.34),
        "hbn": (68.10, 74.70, 83.90, 89.77),
    },
    "cub200": {
        "sm": (57.19, 44.02, 55.86, 68.18),
        "ln": (59.23, 46.86, 59.79, 71.56),
        "bn": (59.20, 47.27, 59.67, 71.89),
        "hln": (60.34, 49.68, 61.85, 73.08),
        "hbn": (60.75, 50.68, 62.58, 73.82),
    },
    "sop": {
        "sm": (88.66, 63.94, 80.07, 90.28),
        "ln": (90.11, 69.51, 84.69, 92.97),
        "bn": (90.45, 71.19, 85.89, 93.75),
        "hln": (90.39, 70.36, 85.41, 93.70),
        "hbn": (90.61, 72.04, 86.25, 93.80),
    },
    "in-shop": {
        "sm": (78.6, 93.7, 95.4, 96.3),
        "ln": (79.6, 94.2, 96.0, 96.8),
        "bn": (80.7, 94.4, 96.1, 96.9),
        "hln": (80.5, 94.2, 96.1, 96.7),
        "hbn": (81.1, 94.2, 95.9, 96.9),
    },
}
# Recall@1 on cars196 by D; where D is 64 the main table has sm, bn and hbn to two places.
ALPHAS = ("sm", "bn-4", "bn-8", "bn", "bn-32", "bn-64", "hbn")
BY_DIMENSIONS = {
    64: (60.8, 67.4, 68.7, 71.1, 69.5, 62.5, 74.0),
    128: (65.2, 71.6, 71.0, 74.2, 73.0, 66.6, 77.5),
    256: (67.3, 72.2, 69.7, 78.0, 75.2, 70.1, 80.1),
}

# --- the protocol: section 4, and the authors' code where the text is silent or differs
PACKING = {
    "size": 256,
    "fit": "squash",
    "colour": "rgb",
    "filter": "lanczos",
    "damaged": 0,
    "split": {"name": "source"},
    "validation": None,
}
DRAWN = {**PACKING, "size": 28, "colour": "grey", "filter": "bilinear"}  # MNIST: as it comes
PARTS = {  # images and classes of training, queries and gallery
    "cars196": ((8054, 98), (8131, 98), (8131, 98)),
    "cub200": ((5864, 100), (5924, 100), (5924, 100)),
    "sop": ((59551, 11318), (60502, 11316), (60502, 11316)),
    "in-shop": ((25882, 3997), (14218, 3985), (12612, 3985)),
    "mnist": ((55000, 10), (10000, 10), (10000, 10)),
}
RECIPE = {
    "backbone": {
        "name": "googlenet",
        "batch_norm": {"momentum": 0.05, "eps": 1e-3, "frozen": False},
        "frozen_blocks": 0,
    },
    "weights": "imagenet",
    "warm_up": "batch_norm",
    "epochs": 80,
    "batch_size": 32,
    "lr": 0.004,
    "bottleneck_lr_factor": 1.0,
    "head_lr_factor": 1.0,
    "optimiser": {"name": "sgd", "momentum": 0.9, "weight_decay": 0.0},
    "augment": [{"name": "crop", "size": 224}, {"name": "flip", "probability": 0.5}],
    "pixel_mean": 0.5,
    "pixel_std": 0.5,
    "precision": "float32",
}
PRODUCTS = {
    **RECIPE,
    "warm_up": "class_means",
    "lr": 0.01,
    "optimiser": {"name": "adam_tf", "eps": 0.01},
}
PICTURES = {  # in two dimensions
    **RECIPE,
    "backbone": {"name": "lenet"},
    "weights": "none",
    "warm_up": "none",
    "embedding_dim": 2,
    "epochs": 100,
    "batch_size": 128,
    "lr": 0.001,
    "optimiser": {"name": "adam_tf", "eps": 1e-8},
    "augment": [],
}
RECIPES = {"cars196": RECIPE, "cub200": RECIPE, "sop": PRODUCTS, "in-shop": PRODUCTS}

CONSTANT = {"name": "constant", "value": 1.0}
HEATED = {
    "alpha": {"name": "step", "start": 16.0, "end": 4.0, "at": 0.7625},
    "lr_factor": {"name": "step", "start": 1.0, "end": 0.1, "at": 0.7625},
}
SOFTMAX = {
    "normalise": {"name": "none"},
    "bias": "outside",
    "label_smoothing": 0.0,
    "alpha": CONSTANT,
    "lr_factor": CONSTANT,
}
LN = {**SOFTMAX, "normalise": {"name": "l2"}, "alpha": {"name": "constant", "value": 16.0}}
BN = {**LN, "normalise": {"name": "batch", "momentum": 0.05, "eps": 1e-3}}
METHODS: dict[str, Options] = {
    "sm": SOFTMAX,
    "ln": LN,
    "bn": BN,
    "hln": {**LN, **HEATED},
    "hbn": {**BN, **HEATED},
    "bn-4": {**BN, "alpha": {"name": "constant", "value": 4.0}},
    "bn-8": {**BN, "alpha": {"name": "constant", "value": 8.0}},
    "bn-32": {**BN, "alpha": {"name": "constant", "value": 32.0}},
    "bn-64": {**BN, "alpha": {"name": "constant", "value": 64.0}},
}


def published(record: Options, dataset: Options, metric: str) -> float | None:
    """The paper's value, in [0, 1], of a run by its protocol; None where the run departs from it or
    the paper has no such number.

    record: the run's provenance. dataset: what params.yaml says of its source, packing and
    evaluation. What a method or a data set is called does not count; what is done does.
    """
    source = dataset["source"]["name"]
    if source not in ROWS or [*in_data(record, dataset), *in_training(record, dataset)]:
        return None
    if metric.startswith("nmi") and dataset["evaluation"]["kmeans"] != its_kmeans(source):
        return None
    params = record["params"]
    methods = (name for name, options in METHODS.items() if not [*others(params, options)])
    percent = printed(source, next(methods, None), params["embedding_dim"], metric)
    return None if percent is None else percent / 100


def printed(source: str, method: str | None, dimensions: int, metric: str) -> float | None:
    """The number in the paper's tables, in percent."""
    if dimensions == 64 and method in ROWS[source] and metric in COLUMNS[source]:
        return ROWS[source][method][COLUMNS[source].index(metric)]
    if (source, metric) != ("cars196", "recall_at_1") or method not in ALPHAS:
        return None
    row = BY_DIMENSIONS.get(dimensions)
    return None if row is None else row[ALPHAS.index(method)]


def departures(record: Options, dataset: Options) -> list[str]:
    """Where a run departs from the paper's protocol, the method apart: what it has, and what the
    paper has, of a data set that is not the paper's by the recipe for cars196 and cub200, or for
    MNIST's pictures where there are two dimensions."""
    kmeans, expected = dataset["evaluation"]["kmeans"], its_kmeans(dataset["source"]["name"])
    told = [*in_data(record, dataset), *in_training(record, dataset)]
    if kmeans != expected:
        told.append(f"clusters by {text(kmeans)} instead of {text(expected)}")
    return told


def in_data(record: Options, dataset: Options) -> Iterator[str]:
    """Where images and classes are not the paper's."""
    split, source = record["split"], dataset["source"]["name"]
    kinds = (DRAWN, ["mnist"], SEEN) if is_flat(record) else (PACKING, ROWS, UNSEEN)
    packing, sources, tested = kinds
    if split["tested"] != tested:
        yield f"tested on {split['tested']}"
    sides = (split[side] for side in ("train", "query", "gallery"))
    if source not in sources:
        yield f"data {text(dataset['source'])} instead of {', '.join(sources)}"
    elif tuple((side["images"], side["classes"]) for side in sides) != PARTS[source]:
        yield "other numbers of images or classes"
    yield from others(dataset["packing"], packing)


def in_training(record: Options, dataset: Options) -> Iterator[str]:
    """Where the recipe is not the paper's."""
    usual = PICTURES if is_flat(record) else RECIPE
    yield from others(record["params"], RECIPES.get(dataset["source"]["name"], usual))


def is_flat(record: Options) -> bool:
    """Whether a run is for pictures, in two dimensions."""
    return bool(record["params"].get("embedding_dim") == 2)


def others(came: Options, expected: Options) -> Iterator[str]:
    """Each parameter that is not as expected."""
    for key, value in expected.items():
        if key not in came:
            yield f"{key} unknown instead of {text(value)}"
        elif came[key] != value:
            yield f"{key} {text(came[key])} instead of {text(value)}"


def its_kmeans(source: str) -> Options:
    """How the authors find clusters; on Stanford Online Products by their --fast_kmeans."""
    return {"name": "scikit-learn", "restarts": 1 if source == "sop" else 10}
