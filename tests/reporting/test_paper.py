"""The paper's numbers: beside each run of params.yaml by its protocol, and beside no other."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import pytest
from conftest import ROOT

from heated import config
from heated.common.samples import SEEN, UNSEEN
from heated.reporting.paper import PARTS, departures, published

PARAMS = config.load(ROOT)


def made(dataset: str, method: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is known of a run by params.yaml, on the whole official data set."""
    section = PARAMS.datasets[dataset].model_dump()
    sides = dict(zip(("train", "query", "gallery"), PARTS[section["source"]["name"]], strict=True))
    split = {side: {"images": n, "classes": c} for side, (n, c) in sides.items()}
    params = PARAMS.settings(dataset, method) | {"precision": "float32", "threads": 1}
    tested = SEEN if section["source"]["name"] == "mnist" else UNSEEN
    return {"params": params, "split": {"tested": tested, **split}}, section


def test_a_run_by_the_papers_protocol_has_its_number(subtests):
    cases = [
        ("cars196", "hbn", "recall_at_1", 74.70),
        ("cars196", "hbn", "nmi_geometric", 68.10),
        ("cars196", "sm", "recall_at_4", 82.50),
        ("cub200", "ln", "recall_at_1", 46.86),
        ("cub200", "hln", "recall_at_2", 61.85),
        ("sop", "hbn", "recall_at_1", 72.04),
        ("sop", "bn", "nmi_geometric", 90.45),
        ("sop", "bn", "recall_at_100", 93.75),
        ("in-shop", "hln", "recall_at_20", 96.1),
        ("cars196", "bn-8", "recall_at_1", 68.7),
        ("cars196", "sm-d128", "recall_at_1", 65.2),
        ("cars196", "bn-d256", "recall_at_1", 78.0),
        ("cars196", "bn-64-d128", "recall_at_1", 66.6),
        ("cars196", "hbn-d256", "recall_at_1", 80.1),
    ]
    for dataset, method, metric, percent in cases:
        with subtests.test(dataset=dataset, method=method, metric=metric, percent=percent):
            assert published(*made(dataset, method), metric) == pytest.approx(percent / 100)


def test_where_the_paper_has_no_number_there_is_none(subtests):
    cases = [
        ("cars196", "ls", "recall_at_1"),
        ("cars196", "hbn-linear", "recall_at_1"),
        ("cars196", "bn-drop", "recall_at_1"),
        ("cars196", "bn-4", "nmi_geometric"),
        ("cars196", "ln-4", "recall_at_1"),
        ("cars196", "hbn", "nmi_arithmetic"),
        ("cars196", "hbn", "recall_at_8"),
        ("cub200", "bn-4", "recall_at_1"),
        ("cub200", "bn-d128", "recall_at_1"),
        ("in-shop", "hbn", "nmi_geometric"),
        ("sop", "hbn", "recall_at_1000"),
    ]
    for dataset, method, metric in cases:
        with subtests.test(dataset=dataset, method=method, metric=metric):
            assert published(*made(dataset, method), metric) is None


def test_other_data_sets_and_recipes_have_none():
    record, section = made("cub200", "hbn")
    for name in ("digits", "cub200-tuned"):
        other = PARAMS.datasets[name].model_dump()
        params = PARAMS.settings(name, "hbn") | {"precision": "float32"}
        assert published({**record, "params": params}, other, "recall_at_1") is None
        assert published({**record, "params": params}, section, "recall_at_1") is None


def test_pictures_in_two_dimensions_are_compared_with_those_of_mnist():
    record, section = made("mnist", "hln")
    assert departures(record, section) == []
    assert published(record, section, "recall_at_1") is None
    other = departures(record, PARAMS.datasets["digits-upright"].model_dump())
    assert [each.split()[0] for each in other] == ["data", "size", "split"]
    larger = {**record, "params": record["params"] | {"embedding_dim": 64}}
    assert "epochs 100 instead of 80" in departures(larger, section)


DEPARTURES: dict[str, tuple[str, Any]] = {
    "validation classes": ("split.tested", "validation classes, fold 0 of 5"),
    "fewer test images": ("split.query.images", 5923),
    "fewer training classes": ("split.train.classes", 99),
    "another network": ("params.backbone.name", "resnet50"),
    "a frozen batch norm": ("params.backbone.batch_norm.frozen", True),
    "no pretraining": ("params.weights", "none"),
    "other weights": ("params.weights", "weights.safetensors"),
    "another D": ("params.embedding_dim", 512),
    "no warm-up": ("params.warm_up", "none"),
    "fewer epochs": ("params.epochs", 40),
    "a larger batch": ("params.batch_size", 128),
    "another learning rate": ("params.lr", 0.01),
    "frozen blocks": ("params.backbone.frozen_blocks", 2),
    "a faster bottleneck": ("params.bottleneck_lr_factor", 10.0),
    "a faster classifier": ("params.head_lr_factor", 10.0),
    "weight decay": ("params.optimiser.weight_decay", 4e-5),
    "another crop": ("params.augment.0.size", 227),
    "no flip": ("params.augment.1.probability", 0.0),
    "other pixels": ("params.pixel_mean", 0.4),
    "lower precision": ("params.precision", "bfloat16"),
    "a bias inside": ("params.bias", "inside"),
    "smoothed labels": ("params.label_smoothing", 0.1),
    "another moment": ("params.alpha.at", 0.5),
    "another end": ("params.alpha.end", 2.0),
    "another drop": ("params.lr_factor.end", 0.5),
    "another batch norm": ("params.normalise.eps", 1e-5),
    "smaller images": ("packing.size", 128),
    "cropped images": ("packing.fit", "crop"),
    "another filter": ("packing.filter", "bilinear"),
    "grey images": ("packing.colour", "grey"),
    "another split": ("packing.split.name", "halves"),
    "a validation fold": ("packing.validation", {"folds": 5, "fold": 0}),
    "another source": ("source.name", "cars196"),
}


def changed(told: Mapping[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy with another value at the path."""
    copy = dict(deepcopy(told))
    *keys, last = path.split(".")
    inner: Any = copy
    for key in keys:
        inner = inner[int(key)] if isinstance(inner, list) else inner[key]
    assert inner[last] != value
    inner[last] = value
    return copy


def test_a_run_that_departs_from_the_protocol_has_none(subtests):
    for departure in DEPARTURES:
        with subtests.test(departure=departure):
            path, value = DEPARTURES[departure]
            record, section = made("cub200", "hbn")
            assert published(record, section, "recall_at_1") is not None
            if path.startswith(("split", "params")):
                record = changed(record, path, value)
            else:
                section = changed(section, path, value)
            assert published(record, section, "recall_at_1") is None


@pytest.mark.parametrize(
    "kmeans",
    [
        {"name": "scikit-learn", "restarts": 1},
        {"name": "lloyd", "restarts": 10, "iterations": 100},
    ],
)
def test_clusters_found_otherwise_have_no_number_and_recall_keeps_its_own(kmeans):
    record, section = made("cub200", "hbn")
    section["evaluation"]["kmeans"] = kmeans
    assert published(record, section, "nmi_geometric") is None
    assert published(record, section, "recall_at_1") == pytest.approx(0.5068)


def test_what_a_method_is_called_does_not_count():
    record, section = made("cub200", "hbn")
    params = PARAMS.settings("cub200", "bn") | {"precision": "float32", "threads": 1}
    assert published({**record, "params": params}, section, "recall_at_1") == pytest.approx(0.4727)


PRINTED = {
    "cub200": ["nmi_geometric", "recall_at_1", "recall_at_2", "recall_at_4"],
    "cars196": ["nmi_geometric", "recall_at_1", "recall_at_2", "recall_at_4"],
    "sop": ["nmi_geometric", "recall_at_1", "recall_at_10", "recall_at_100"],
    "in-shop": [f"recall_at_{k}" for k in (1, 10, 20, 30)],
}


def test_every_number_of_the_main_tables_is_reached_from_params_yaml():
    found = [
        published(*made(dataset, method), metric)
        for dataset in ("cub200", "cars196", "sop", "in-shop")
        for method in ("sm", "ln", "bn", "hln", "hbn")
        for metric in PRINTED[dataset]
    ]
    assert len(found) == 80
    assert None not in found
