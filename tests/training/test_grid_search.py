import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import SHORT, Project
from recipes import make_data, make_recipe

from heated.common.errors import InputError
from heated.common.history import NullLogger
from heated.common.io import read_json
from heated.training.grid_search import search_grid, with_validation_split
from heated.training.training_run import TrainingRun

POINTS = [{"lr": 0.01}, {"lr": 0.05}]
DATA = make_data(range(6), [6, 7])


def make_run(folder, data=DATA, **point):
    data = with_validation_split(data, folds=3, fold=0)
    return TrainingRun(make_recipe(**point), data, "data", torch.device("cpu"), folder)


def search(folder, data=DATA, points=POINTS):
    recipes = [make_recipe(**point) for point in points]
    return search_grid(make_run(folder, data), points, recipes, seed=0)


def test_the_test_classes_have_no_effect_on_the_choice(tmp_path):
    images, labels, query = DATA.images.copy(), DATA.labels.copy(), DATA.split.query
    images[query], labels[query] = 0, labels[query][::-1]
    found = search(tmp_path / "one")
    other = search(tmp_path / "two", replace(DATA, images=images, labels=labels))
    for each in (*found["tried"], *other["tried"]):
        assert each.pop("seconds") > 0
    assert found == other
    assert found["tested"] == "validation classes, fold 0 of 3 of the training classes"


def test_validation_classes_are_training_classes_that_are_not_trained_on():
    tested = []
    for fold in range(3):
        split = with_validation_split(DATA, folds=3, fold=fold).split
        train, query = (set(DATA.labels[mask]) for mask in (split.train, split.query))
        assert (len(train), len(query)) == (4, 2)
        assert not train & query
        assert train | query == set(range(6))
        tested += query
    assert set(tested) == set(range(6))
    with pytest.raises(InputError, match="4 folds of 6 training classes"):
        with_validation_split(DATA, folds=4, fold=0)


def test_every_point_is_trained_once_and_the_best_last_epoch_is_chosen(tmp_path):
    found = search(tmp_path)
    assert [each["point"] for each in found["tried"]] == POINTS
    scores = [each["recall_at_1"] for each in found["tried"]]
    assert found["chosen"] == POINTS[int(np.argmax(scores))]
    assert found["trainings"] == 2
    assert search(tmp_path) == found  # also its seconds: no point was trained again
    for each in found["tried"]:
        run = make_run(tmp_path / "other", **each["point"])
        result = run.train_seeds([0], tmp_path / "models", NullLogger())[0]
        assert each["recall_at_1"] == result["history"][-1]["recall_at_1"]


def test_a_point_whose_loss_is_not_finite_is_listed_and_not_chosen(tmp_path):
    found = search(tmp_path, points=[{"lr": 1e30}, {"lr": 0.01}])
    assert found["tried"][0] == {"point": {"lr": 1e30}, "recall_at_1": None, "seconds": None}
    assert found["chosen"] == {"lr": 0.01}
    with pytest.raises(FloatingPointError, match="not finite at any point. Extend the grid"):
        search(tmp_path, points=[{"lr": 1e30}])


def grid(**params):
    return [{"param": name.replace("__", "."), "values": each} for name, each in params.items()]


STUDY = {  # two competitors on digits, each with two points of two epochs
    **SHORT,
    "studies.embeddings_2d.datasets": [],
    "studies.competitors.datasets": ["digits"],
    "studies.competitors.methods": ["tuned-sm", "triplet"],
    "studies.competitors.seeds": [0, 1],
    "grids": {
        "tuned-sm": grid(lr=[0.05], label_smoothing=[0.0, 0.1]),
        "triplet": grid(lr=[0.05], loss__margin=[0.1, 0.2]),
    },
}


@pytest.fixture(scope="module")
def competed(tmp_path_factory):
    """A project whose study of competitors is built."""
    project = Project(tmp_path_factory.mktemp("competitors"))
    project.edit(STUDY)
    project.run("python", "-m", "stages", "2", HEATED_TRACKING="off")
    return project


@pytest.mark.xdist_group("competed")
def test_competitors_are_trained_with_their_tuned_settings_and_reported(competed):
    for method in ("tuned-sm", "triplet"):
        folder = competed.folder / "runs/digits" / method
        tuned, provenance = (read_json(folder / name) for name in ("tuned.json", "provenance.json"))
        assert tuned["trainings"] == 2
        assert provenance["params"]["lr"] == tuned["chosen"]["lr"]
        assert sorted(provenance["seeds"]) == ["0", "1"]
        assert all(seed["peak_mib"] > 0 for seed in provenance["seeds"].values())
        seen = 2 * provenance["split"]["train"]["images"]
        assert {seed["images_seen"] for seed in provenance["seeds"].values()} == {seen}
    report = (competed.folder / "report/tables/digits.md").read_text(encoding="utf-8")
    assert "### Competitors under equal conditions" in report
    assert "validation classes, fold 0 of 5 of the training classes. Each was" in report
    tuned = read_json(competed.folder / "runs/digits/triplet/tuned.json")
    lr, margin = tuned["chosen"]["lr"], tuned["chosen"]["loss.margin"]
    assert re.search(rf"(?m)^\| triplet \| 2 \| .*lr {lr}, loss.margin {margin}", report)
    assert (competed.folder / "report/figures/digits-costs.svg").is_file()
    page = (competed.folder / "report/index.html").read_text(encoding="utf-8")
    assert "Training costs of the competitors" in page


@pytest.mark.xdist_group("competed")
def test_a_changed_grid_outdates_only_its_method(competed):
    with competed.edited({"grids.triplet": grid(lr=[0.05], loss__margin=[0.1, 0.3])}):
        competed.run("dvc", "repro", "--quiet", "resolve")
        outdated = json.loads(competed.run("dvc", "status", "--json"))
    competed.run("dvc", "repro", "--quiet", "resolve")
    assert sorted(outdated) == ["report", "tune@digits-triplet"]
