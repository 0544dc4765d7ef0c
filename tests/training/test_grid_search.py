import json
import re
from dataclasses import replace

import numpy as np
import pytest
from conftest import SHORT, Project
from test_training_run import CPU, SETTINGS

from heated.common.errors import InputError
from heated.common.history import NullLogger
from heated.common.io import read_json
from heated.common.samples import Split
from heated.data.packed_dataset import Packed
from heated.training import grid_search
from heated.training.recipe import Recipe, tuned_settings
from heated.training.training_run import Run

POINTS = [{"lr": 0.01}, {"lr": 0.05}]


def packed():
    """Six classes to train on, and two to test on."""
    labels = np.repeat(np.arange(8), 6)
    images = np.random.default_rng(0).integers(256, size=(48, 6, 6, 1), dtype=np.uint8)
    train = labels < 6
    split = Split(train=train, query=~train, gallery=~train)
    return Packed(images, labels, tuple("abcdefgh"), split)


def tried(folder, data, points=POINTS):
    held = grid_search.validation(data, folds=3, fold=0)
    recipes = [Recipe.from_settings(SETTINGS | point) for point in points]
    run = Run(recipes[0], held, "data", CPU, folder)
    return grid_search.tuned(run, points, recipes, seed=0)


def test_the_test_classes_have_no_part_in_the_choice(tmp_path):
    data = packed()
    garbled = data.images.copy()
    garbled[data.split.query] = 0
    shuffled = data.labels.copy()
    shuffled[data.split.query] = shuffled[data.split.query][::-1]
    found = tried(tmp_path / "one", data)
    other = tried(tmp_path / "two", replace(data, images=garbled, labels=shuffled))
    for each in (*found["tried"], *other["tried"]):
        assert each.pop("seconds") > 0
    assert found == other
    assert found["tested"] == "validation classes, fold 0 of 3 of the training classes"


def test_validation_classes_are_of_those_that_train_and_do_not_train():
    data = packed()
    parts = [grid_search.validation(data, folds=3, fold=fold).split for fold in range(3)]
    for part in parts:
        trained, tested = (set(data.labels[mask]) for mask in (part.train, part.query))
        assert (len(trained), len(tested)) == (4, 2)
        assert not trained & tested
        assert trained | tested == set(range(6))
    assert set().union(*(data.labels[part.query] for part in parts)) == set(range(6))
    with pytest.raises(InputError, match="got 4 folds of 6 training classes, expected at least"):
        grid_search.validation(data, folds=4, fold=0)


def test_every_point_is_trained_once_and_the_best_of_its_last_epochs_is_chosen(tmp_path):
    found = tried(tmp_path, packed())
    assert [each["point"] for each in found["tried"]] == POINTS
    scores = [each["recall_at_1"] for each in found["tried"]]
    assert found["chosen"] == POINTS[int(np.argmax(scores))]
    assert found["trainings"] == 2
    assert tried(tmp_path, packed()) == found  # its seconds too: nothing was trained again
    held = grid_search.validation(packed(), folds=3, fold=0)
    for each in found["tried"]:
        recipe = Recipe.from_settings(SETTINGS | each["point"])
        run = Run(recipe, held, "data", CPU, tmp_path / "other")
        done = run.finish([0], tmp_path / "models", NullLogger())[0]
        assert each["recall_at_1"] == done["history"][-1]["recall_at_1"]


def test_a_loss_that_is_not_finite_is_told_and_not_chosen(tmp_path):
    found = tried(tmp_path, packed(), [{"lr": 1e30}, {"lr": 0.01}])
    assert found["tried"][0]["recall_at_1"] is None
    assert found["chosen"] == {"lr": 0.01}
    with pytest.raises(FloatingPointError, match="not finite with any setting; widen the grid"):
        tried(tmp_path, packed(), [{"lr": 1e30}])


def test_the_settings_that_were_chosen_are_read(tmp_path):
    (tmp_path / "tuned.json").write_text('{"settings": {"lr": 0.05}}', encoding="utf-8")
    assert tuned_settings(tmp_path) == {"lr": 0.05}
    with pytest.raises(FileNotFoundError, match="the stage 'tune' makes it"):
        tuned_settings(tmp_path / "none")


STUDY = {  # two competitors on digits, each tried twice for two epochs
    **SHORT,
    "studies.planes.datasets": [],
    "studies.competitors.datasets": ["digits"],
    "studies.competitors.methods": ["tuned-sm", "triplet"],
    "studies.competitors.seeds": [0, 1],
    "grids": {
        "tuned-sm": [
            {"vary": "lr", "over": [0.05]},
            {"vary": "label_smoothing", "over": [0.0, 0.1]},
        ],
        "triplet": [{"vary": "lr", "over": [0.05]}, {"vary": "loss.margin", "over": [0.1, 0.2]}],
    },
}


@pytest.fixture(scope="module")
def competed(tmp_path_factory):
    """A project whose study of competitors was built by DVC."""
    project = Project(tmp_path_factory.mktemp("competitors"))
    project.edit(STUDY)
    project.run("dvc", "repro", "--quiet", HEATED_TRACKING="off")
    return project


@pytest.mark.xdist_group("competed")
def test_a_competitor_is_tuned_and_then_trained_with_what_was_chosen(competed):
    for method in ("tuned-sm", "triplet"):
        folder = competed.folder / "runs/digits" / method
        tuned, made = (read_json(folder / name) for name in ("tuned.json", "provenance.json"))
        assert tuned["trainings"] == 2
        assert made["params"]["lr"] == tuned["chosen"]["lr"]
        assert sorted(made["seeds"]) == ["0", "1"]
        assert all(seed["peak_mib"] > 0 for seed in made["seeds"].values())
        seen = 2 * made["split"]["train"]["images"]
        assert {seed["images_seen"] for seed in made["seeds"].values()} == {seen}


@pytest.mark.xdist_group("competed")
def test_the_report_tells_what_was_tried_where_and_what_it_cost(competed):
    report = (competed.folder / "report/tables/digits.md").read_text(encoding="utf-8")
    assert "### Competitors, on equal terms" in report
    assert "validation classes, fold 0 of 5 of the training classes; the test classes" in report
    tuned = read_json(competed.folder / "runs/digits/triplet/tuned.json")
    lr, margin = tuned["chosen"]["lr"], tuned["chosen"]["loss.margin"]
    assert re.search(rf"(?m)^\| triplet \| 2 \| .*lr {lr}, loss.margin {margin}", report)
    assert (competed.folder / "report/figures/digits-costs.svg").is_file()
    page = (competed.folder / "report/index.html").read_text(encoding="utf-8")
    assert "What the competitors cost" in page


@pytest.mark.xdist_group("competed")
def test_a_changed_grid_puts_its_own_method_out_of_date_alone(competed):
    grid = [{"vary": "lr", "over": [0.05]}, {"vary": "loss.margin", "over": [0.1, 0.3]}]
    with competed.edited({"grids.triplet": grid}):
        competed.run("dvc", "repro", "--quiet", "resolve")
        outdated = json.loads(competed.run("dvc", "status", "--json"))
    competed.run("dvc", "repro", "--quiet", "resolve")
    assert sorted(outdated) == ["report", "tune@digits-triplet"]


@pytest.mark.xdist_group("competed")
def test_a_misspelt_option_stops_the_check_by_its_methods_name(competed):
    with competed.edited({"methods.triplet.loss": {"name": "triplet", "marign": 0.2}}):
        told = competed.stage("resolve", "--check", status=1)
    assert told.startswith("methods.triplet: triplet.marign: got 'marign', expected one of ")
    assert "Did you mean 'margin'?" in told
