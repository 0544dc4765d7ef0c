import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning

from heated.common.errors import InputError
from heated.evaluation.clustering import CLUSTERING
from heated.evaluation.geometry import GEOMETRY
from heated.evaluation.metrics import evaluate, with_engine
from heated.evaluation.retrieval import RETRIEVAL

RECALLS = [1, 2, 4]
BESIDE = {"kmeans_objective", "kmeans_converged", "without_match"}
SCORES = {f"recall_at_{k}" for k in RECALLS} | {*RETRIEVAL, *CLUSTERING}


def points(seed, noise=1.0, classes=4, each=12, dim=6):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(classes).repeat(each)
    centres = torch.eye(dim)[:classes] * 2
    return centres[labels] + noise * torch.randn(len(labels), dim, generator=generator), labels


def evaluated(
    embeddings, labels, *, query=None, gallery=None, recall_at=RECALLS, kmeans_seeds=(0,)
):
    everything = torch.ones(len(labels), dtype=torch.bool)
    return evaluate(
        embeddings,
        labels,
        query=everything if query is None else query,
        gallery=everything if gallery is None else gallery,
        recall_at=recall_at,
        kmeans={"name": "scikit-learn", "restarts": 2},
        kmeans_seeds=kmeans_seeds,
        memory=128,
    )


def test_every_metric_of_the_package_is_there():
    names = {f"recall_at_{k}" for k in RECALLS} | {*RETRIEVAL, *CLUSTERING, *GEOMETRY}
    assert set(evaluated(*points(0))) == names | BESIDE


@pytest.mark.parametrize("noise", [0.1, 1.0, 20.0])
def test_every_value_is_a_float_between_0_and_1(noise):
    for name, value in evaluated(*points(0, noise)).items():
        assert isinstance(value, float), name
        assert 0 <= value <= 1, name


def test_perfect_separation_gives_the_best_value_of_every_score():
    values = evaluated(*points(0, noise=0.01))
    for name in SCORES:
        assert values[name] == pytest.approx(1, abs=1e-12), name
    assert values["compactness"] == pytest.approx(0, abs=1e-3)
    assert values["spread"] == pytest.approx(0.5, abs=1e-2)


def test_better_separation_gives_better_scores():
    near, far = evaluated(*points(0, noise=2.0)), evaluated(*points(0, noise=0.6))
    for name in {*SCORES, "spread"}:
        assert far[name] > near[name], name
    assert far["compactness"] < near["compactness"]


def test_a_collapsed_network_gets_no_score_by_retrieval():
    labels = torch.arange(4).repeat(12)
    with pytest.warns(ConvergenceWarning, match="distinct clusters"):
        values = evaluated(torch.ones(48, 3), labels)
    assert {values[name] for name in ("recall_at_4", "map_at_r", "r_precision")} == {0.0}
    assert values["nmi_geometric"] == pytest.approx(0, abs=1e-12)
    assert values["spread"] == 0


def test_renaming_classes_changes_nothing():
    embeddings, labels = points(0)
    renamed = evaluated(embeddings, torch.tensor([9, 2, 30, 0])[labels])
    assert renamed == pytest.approx(evaluated(embeddings, labels), abs=1e-12)


def test_scaling_each_embedding_changes_nothing():
    embeddings, labels = points(0)
    powers = torch.randint(-3, 4, (len(labels), 1), generator=torch.Generator().manual_seed(1))
    assert evaluated(embeddings * 2.0**powers, labels) == evaluated(embeddings, labels)


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


@pytest.mark.parametrize("k", [16, 17])
def test_a_k_that_is_not_smaller_than_the_gallery_is_refused(k):
    embeddings, labels = points(0)
    gallery = torch.arange(len(labels)) < 16
    with pytest.raises(InputError, match=f"recall at {k}: the gallery has only 16 images"):
        evaluated(embeddings, labels, gallery=gallery, recall_at=[1, k])


def test_the_largest_k_below_the_gallery_is_taken():
    embeddings, labels = points(0)
    gallery = torch.arange(len(labels)) < 16
    assert "recall_at_15" in evaluated(embeddings, labels, gallery=gallery, recall_at=[15])


def test_clusters_are_scored_by_the_mean_over_the_seeds_of_k_means_with_its_deviation():
    embeddings, labels = points(0, noise=2.0)
    alone = [evaluated(embeddings, labels, kmeans_seeds=(seed,)) for seed in (0, 1, 2)]
    together = evaluated(embeddings, labels, kmeans_seeds=(0, 1, 2))
    for name in CLUSTERING:
        values = [each[name] for each in alone]
        assert together[name] == pytest.approx(np.mean(values), abs=1e-12)
        assert together[f"{name}_kmeans_std"] == pytest.approx(np.std(values, ddof=1), abs=1e-12)
    assert together["kmeans_objective"] > 0
    assert together["kmeans_converged"] == 1


def test_queries_without_a_match_are_counted_as_misses_and_reported():
    embeddings, labels = points(0, noise=0.01)
    alone = torch.cat([labels, torch.tensor([7, 8])])
    values = evaluated(torch.cat([embeddings, torch.randn(2, 6)]), alone)
    assert values["without_match"] == 2 / 50
    assert values["recall_at_1"] == values["map_at_r"] == 48 / 50
    assert evaluated(embeddings, labels)["without_match"] == 0


def test_the_engine_stands_beside_what_it_gave():
    summaries = {name: {"mean": 0.5} for name in evaluated(*points(0), kmeans_seeds=(0, 1))}
    engines = {name: s.get("engine") for name, s in with_engine(summaries, "lloyd").items()}
    given = {name for name, engine in engines.items() if engine == "lloyd"}
    spreads = {f"{name}_kmeans_std" for name in CLUSTERING}
    assert given == {*CLUSTERING, "kmeans_objective", "kmeans_converged"} | spreads
    assert all(engines[name] is None for name in set(engines) - given)
