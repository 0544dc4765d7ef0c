import numpy as np
import pytest
import torch

from heated.common.errors import InputError
from heated.evaluation.clustering import CLUSTERING
from heated.evaluation.metrics import GEOMETRY, RETRIEVAL, evaluate

RECALLS = [1, 2, 4]
SCORES = {f"recall_at_{k}" for k in RECALLS} | {*RETRIEVAL, *CLUSTERING}
KMEANS = {"kmeans_objective", "kmeans_converged"}


def points(seed, noise=1.0, classes=4, each=12, dim=6):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(classes).repeat(each)
    centers = torch.eye(dim)[:classes] * 2
    return centers[labels] + noise * torch.randn(len(labels), dim, generator=generator), labels


def evaluated(embeddings, labels, **changes):
    everything = torch.ones(len(labels), dtype=torch.bool)
    arrays = {"embeddings": embeddings, "labels": labels}
    arrays |= {name: changes.pop(name, everything) for name in ("query", "gallery")}
    options = {"kmeans": {"name": "scikit-learn", "restarts": 2}, "kmeans_seeds": (0,)}
    return evaluate(arrays, **({"recall_at": RECALLS} | options | changes), memory_mib=128)


def test_every_registered_metric_is_computed_as_a_float_in_its_range():
    for noise in (0.1, 1.0, 20.0):
        values = evaluated(*points(0, noise))
        assert set(values) == {*SCORES, *GEOMETRY, *KMEANS, "unanswerable_queries"}
        for name, value in values.items():
            assert isinstance(value, float), name
            assert (-1 if name == "ami" else 0) <= value <= 1, name
    embeddings, labels = points(0)
    alone = torch.cat([embeddings, -embeddings[:2]]), torch.cat([labels, torch.tensor([7, 8])])
    assert values["unanswerable_queries"] == 0
    assert evaluated(*alone)["unanswerable_queries"] == 2 / 50


def test_better_separation_gives_better_scores_and_perfect_separation_the_best():
    near, far, perfect = (evaluated(*points(0, noise=noise)) for noise in (2.0, 0.6, 0.01))
    for name in {*SCORES, "inter_class_distance"}:
        assert far[name] > near[name], name
    assert far["intra_class_variance"] < near["intra_class_variance"]
    for name in SCORES:
        assert perfect[name] == pytest.approx(1, abs=1e-12), name
    assert perfect["intra_class_variance"] == pytest.approx(0, abs=1e-3)
    assert perfect["inter_class_distance"] == pytest.approx(0.5, abs=1e-2)


def test_renaming_classes_and_scaling_each_embedding_change_nothing():
    embeddings, labels = points(0)
    expected = evaluated(embeddings, labels)
    renamed = evaluated(embeddings, torch.tensor([9, 2, 30, 0])[labels])
    assert renamed == pytest.approx(expected, abs=1e-12)
    powers = torch.randint(-3, 4, (len(labels), 1), generator=torch.Generator().manual_seed(1))
    assert evaluated(embeddings * 2.0**powers, labels) == expected


def test_retrieval_is_of_the_queries_in_the_gallery():
    embeddings, labels = points(0)
    query = torch.arange(len(labels)) < 16
    apart = evaluated(embeddings, labels, query=query, gallery=~query)
    unit = torch.nn.functional.normalize(embeddings.double(), dim=1).numpy()
    nearest = (unit[:16] @ unit[16:].T).argmax(axis=1)
    classes = labels.numpy()
    assert apart["recall_at_1"] == np.mean(classes[16:][nearest] == classes[:16])
    together = evaluated(embeddings, labels)
    for name in (*CLUSTERING, *GEOMETRY):
        assert apart[name] == together[name], name


def test_a_k_is_smaller_than_the_gallery():
    embeddings, labels = points(0)
    gallery = torch.arange(len(labels)) < 16
    assert "recall_at_15" in evaluated(embeddings, labels, gallery=gallery, recall_at=[15])
    for k in (16, 17):
        with pytest.raises(InputError, match=f"recall_at: got {k}, expected at most 15.*16 images"):
            evaluated(embeddings, labels, gallery=gallery, recall_at=[1, k])


def test_clustering_metrics_are_means_over_the_seeds_of_k_means():
    embeddings, labels = points(0, noise=2.0)
    alone = [evaluated(embeddings, labels, kmeans_seeds=(seed,)) for seed in (0, 1, 2)]
    together = evaluated(embeddings, labels, kmeans_seeds=(0, 1, 2))
    for name in CLUSTERING:
        values = [each[name] for each in alone]
        assert together[name] == pytest.approx(np.mean(values), abs=1e-12)
        assert together[f"{name}_kmeans_std"] == pytest.approx(np.std(values, ddof=1), abs=1e-12)
    assert together["kmeans_objective"] > 0
    assert together["kmeans_converged"] == 1
