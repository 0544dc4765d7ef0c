"""The paper's results, and which runs are comparable to them: only those with its protocol.

paper_results.csv has the tables of arXiv 1809.04157, in percent: one GoogLeNet training each.
"""

import csv
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from heated.common.samples import SEEN, UNSEEN
from heated.reporting.run_results import format_value

Options = Mapping[str, Any]
# The protocol of section 4, and of the authors' code where the text is silent or differs.
PACKING = {
    "size": 256,
    "fit": "squash",
    "color_mode": "rgb",
    "filter": "lanczos",
    "max_damaged_images": 0,
    "split": {"name": "source"},
    "validation": None,
}
MNIST_PACKING = {**PACKING, "size": 28, "color_mode": "gray", "filter": "bilinear"}  # unchanged
SPLIT_SIZES = {  # (images, classes) of training, queries and gallery
    "cars196": ((8054, 98), (8131, 98), (8131, 98)),
    "cub200": ((5864, 100), (5924, 100), (5924, 100)),
    "sop": ((59551, 11318), (60502, 11316), (60502, 11316)),
    "in-shop": ((25882, 3997), (14218, 3985), (12612, 3985)),
    "mnist": ((55000, 10), (10000, 10), (10000, 10)),
}
BATCH_NORM = {"momentum": 0.05, "eps": 1e-3}
GOOGLENET = {"name": "googlenet", "batch_norm": {**BATCH_NORM, "scale": False, "frozen": False}}
RECIPE = {
    "backbone": {**GOOGLENET, "frozen_blocks": 0},
    "weights": "imagenet",
    "init": "batch_norm",
    "epochs": 80,
    "batch_size": 32,
    "lr": 0.004,
    "bottleneck_lr_mult": 1.0,
    "classifier_lr_mult": 1.0,
    "optimizer": {"name": "sgd", "momentum": 0.9, "weight_decay": 0.0},
    "augment": [{"name": "crop", "size": 224}, {"name": "flip", "p": 0.5}],
    "pixel_mean": 0.5,
    "pixel_std": 0.5,
    "precision": "float32",
}
ADAM = {"name": "adam_tf", "eps": 0.01}
PRODUCTS = {**RECIPE, "init": "class_means", "lr": 0.01, "optimizer": ADAM}
TWO_DIM_RECIPE = {  # the figures on MNIST
    **RECIPE,
    "backbone": {"name": "lenet"},
    "weights": "none",
    "init": "none",
    "embedding_dim": 2,
    "epochs": 100,
    "batch_size": 128,
    "lr": 0.001,
    "optimizer": {**ADAM, "eps": 1e-8},
    "augment": [],
}
RECIPES = {"cars196": RECIPE, "cub200": RECIPE, "sop": PRODUCTS, "in-shop": RECIPE}

HEATED = {
    "alpha": {"name": "step", "start": 16.0, "end": 4.0, "at": 0.7625},
    "lr_schedule": {"name": "step", "start": 1.0, "end": 0.1, "at": 0.7625},
}
CONSTANT = dict.fromkeys(("alpha", "lr_schedule"), {"name": "constant", "value": 1.0})
SOFTMAX = {"normalize": {"name": "none"}, "bias": "outside", "label_smoothing": 0.0, **CONSTANT}
LN = {**SOFTMAX, "normalize": {"name": "l2"}, "alpha": {"name": "constant", "value": 16.0}}
BN = {**LN, "normalize": {"name": "batch", **BATCH_NORM}}
METHODS: dict[str, Options] = {
    "sm": SOFTMAX,
    "ln": LN,
    "bn": BN,
    "hln": {**LN, **HEATED},
    "hbn": {**BN, **HEATED},
    **{f"bn-{a}": {**BN, "alpha": {"name": "constant", "value": float(a)}} for a in (4, 8, 32, 64)},
}


def paper_value(record: Options, section: Options, metric: str) -> float | None:
    """Return the paper's value in [0, 1] for a run of its protocol, by settings and not by name."""
    source, clusters = section["source"]["name"], metric.startswith("nmi")
    if source not in RECIPES or departures(record, section, clusters=clusters):
        return None
    params = record["params"]
    matching = (name for name, options in METHODS.items() if not mismatches(params, options))
    key = source, params["embedding_dim"], next(matching, "")
    percent = load_paper_results().get(key, {}).get(metric)
    return float(percent) / 100 if percent else None


@cache
def load_paper_results() -> dict[tuple[str, int, str], dict[str, str]]:
    """Load the paper's tables by data set, embedding dimension and method."""
    text = Path(__file__).with_name("paper_results.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    return {(row.pop("dataset"), int(row.pop("dim")), row.pop("method")): row for row in rows}


def departures(record: Options, section: Options, *, clusters: bool = True) -> list[str]:
    """List where a run departs from the paper's protocol, apart from its method.

    Data sets that the paper does not use are compared with its recipe for cars196 and cub200, or
    with its figures on MNIST if the embeddings have two dimensions. `clusters` includes k-means.
    """
    params, split, source = record["params"], record["split"], section["source"]["name"]
    packing, sources, tested, recipe = PACKING, [*RECIPES], UNSEEN, RECIPE
    if params.get("embedding_dim") == 2:
        packing, sources, tested, recipe = MNIST_PACKING, ["mnist"], SEEN, TWO_DIM_RECIPE
    found = [] if split["tested"] == tested else [f"tested on {split['tested']}"]
    sides = (split[side] for side in ("train", "query", "gallery"))
    if source not in sources:
        found.append(f"data {format_value(section['source'])} instead of {', '.join(sources)}")
    elif tuple((side["images"], side["classes"]) for side in sides) != SPLIT_SIZES[source]:
        found.append("different numbers of images or classes")
    found += mismatches(section["packing"], packing)
    found += mismatches(params, RECIPES.get(source, recipe))
    # The authors evaluate Stanford Online Products with their --fast_kmeans.
    expected = {"name": "scikit-learn", "restarts": 1 if source == "sop" else 10}
    kmeans = section["evaluation"]["kmeans"]
    if clusters and kmeans != expected:
        found.append(f"clusters by {format_value(kmeans)} instead of {format_value(expected)}")
    return found


def mismatches(values: Options, expected: Options) -> list[str]:
    """List each expected parameter that is missing or has another value."""
    return [
        f"{key} {format_value(values.get(key, 'unknown'))} instead of {format_value(value)}"
        for key, value in expected.items()
        if values.get(key, "unknown") != value
    ]
