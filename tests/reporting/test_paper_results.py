"""The paper has a value for each run of params.yaml with its protocol, and for no other."""

import re
from copy import deepcopy

import pytest
from conftest import ROOT

from heated import config
from heated.common.samples import SEEN, UNSEEN
from heated.reporting.paper_results import SPLIT_SIZES, departures, load_paper_results, paper_value

PARAMS = config.load_params(ROOT)


def record_of(dataset, method):
    """Return the provenance of a run by params.yaml on the whole data set, and its section."""
    section = PARAMS.datasets[dataset].model_dump()
    source = section["source"]["name"]
    sides = dict(zip(("train", "query", "gallery"), SPLIT_SIZES[source], strict=True))
    split = {side: {"images": n, "classes": c} for side, (n, c) in sides.items()}
    params = PARAMS.settings(dataset, method) | {"precision": "float32", "threads": 1}
    tested = SEEN if source == "mnist" else UNSEEN
    return {"params": params, "split": {"tested": tested, **split}}, section


def test_a_run_with_the_papers_protocol_has_its_value_and_others_have_none(subtests):
    cases = """
        cars196 hbn recall_at_1 74.70, cars196 hbn nmi_geometric 68.10, cars196 sm recall_at_4 82.50
        cub200 ln recall_at_1 46.86, cub200 hln recall_at_2 61.85, sop hbn recall_at_1 72.04
        sop bn nmi_geometric 90.45, sop bn recall_at_100 93.75, in-shop hln recall_at_20 96.1
        cars196 bn-8 recall_at_1 68.7, cars196 sm-d128 recall_at_1 65.2
        cars196 bn-d256 recall_at_1 78.0, cars196 bn-64-d128 recall_at_1 66.6
        cars196 hbn-d256 recall_at_1 80.1, cars196 ls recall_at_1 -, cars196 bn-drop recall_at_1 -
        cars196 hbn-linear recall_at_1 -, cars196 bn-4 nmi_geometric -, cars196 ln-4 recall_at_1 -
        cars196 hbn nmi_arithmetic -, cars196 hbn recall_at_8 -, cub200 bn-4 recall_at_1 -
        cub200 bn-d128 recall_at_1 -, in-shop hbn nmi_geometric -, sop hbn recall_at_1000 -"""
    for case in re.split(r"[,\n]\s+", cases.strip()):
        with subtests.test(case):
            dataset, method, metric, percent = case.split()
            expected = None if percent == "-" else pytest.approx(float(percent) / 100)
            assert paper_value(*record_of(dataset, method), metric) == expected


def test_two_dimensional_embeddings_are_compared_with_the_figures_on_mnist():
    record, section = record_of("mnist", "hln")
    assert departures(record, section) == []
    assert paper_value(record, section, "recall_at_1") is None
    other = departures(record, PARAMS.datasets["digits-upright"].model_dump())
    assert [each.split()[0] for each in other] == ["data", "size", "split"]
    larger = {**record, "params": record["params"] | {"embedding_dim": 64}}
    assert "epochs 100 instead of 80" in departures(larger, section)


DEPARTURES = {
    "split": {"tested": "validation classes, fold 0 of 5"},
    "split.query": {"images": 5923},
    "split.train": {"classes": 99},
    "params": {
        **{"weights": "none", "embedding_dim": 512, "init": "none", "epochs": 40},
        **{"batch_size": 128, "lr": 0.01, "bottleneck_lr_mult": 10.0, "classifier_lr_mult": 10.0},
        **{"pixel_mean": 0.4, "precision": "bfloat16", "bias": "inside", "label_smoothing": 0.1},
    },
    "params.backbone": {"name": "resnet50", "frozen_blocks": 2},
    "params.backbone.batch_norm": {"frozen": True},
    "params.optimizer": {"weight_decay": 4e-5},
    "params.augment.0": {"size": 227},
    "params.augment.1": {"p": 0.0},
    "params.alpha": {"at": 0.5, "end": 2.0},
    "params.lr_schedule": {"end": 0.5},
    "params.normalize": {"eps": 1e-5},
    "packing": {
        **{"size": 128, "fit": "crop", "filter": "bilinear", "color_mode": "gray"},
        "validation": {"folds": 5, "fold": 0},
    },
    "packing.split": {"name": "halves"},
    "source": {"name": "cars196"},
}


def test_a_run_that_departs_from_the_protocol_has_none(subtests):
    pairs = [(path, *each) for path, changes in DEPARTURES.items() for each in changes.items()]
    for path, key, value in pairs:
        with subtests.test(f"{path}.{key}: {value}"):
            record, section = deepcopy(record_of("cub200", "hbn"))
            assert paper_value(record, section, "recall_at_1") is not None
            inner = {**section, **record}
            for name in path.split("."):
                inner = inner[int(name) if name.isdigit() else name]
            assert inner[key] != value
            inner[key] = value
            assert paper_value(record, section, "recall_at_1") is None
    record, section = record_of("cub200", "hbn")
    for name in ("digits", "cub200-tuned"):
        params = PARAMS.settings(name, "hbn") | {"precision": "float32"}
        for each in (PARAMS.datasets[name].model_dump(), section):
            assert paper_value({**record, "params": params}, each, "recall_at_1") is None


def test_other_clusters_have_no_value_but_recall_has():
    record, section = record_of("cub200", "hbn")
    lloyd = {"name": "lloyd", "restarts": 10, "iterations": 100}
    for kmeans in ({"name": "scikit-learn", "restarts": 1}, lloyd):
        section["evaluation"]["kmeans"] = kmeans
        assert paper_value(record, section, "nmi_geometric") is None
        assert paper_value(record, section, "recall_at_1") == pytest.approx(0.5068)


def test_every_value_of_the_main_tables_is_reached_from_params_yaml():
    pairs = []
    for (dataset, dim, method), row in load_paper_results().items():
        if dim == 64 and not method.startswith("bn-"):
            pairs += [(paper_value(*record_of(dataset, method), m), v) for m, v in row.items() if v]
    assert len(pairs) == 80
    assert all(value == float(percent) / 100 for value, percent in pairs)
