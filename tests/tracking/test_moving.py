import shutil
import sqlite3
from contextlib import closing

import numpy as np
import pytest
import torch
from embedders import case
from tracked import HISTORIES, METRICS, MLFLOWS, all_of, record

from heated.models import embedding_model
from heated.tracking import address
from heated.tracking.models import read
from heated.tracking.moving import settle
from heated.tracking.publishing import publish
from heated.tracking.registry import Trained, keep
from heated.tracking.store import opened

pytestmark = [
    pytest.mark.mlflow,
    pytest.mark.filterwarnings(
        MLFLOWS, "ignore:.*Any type hint is inferred as AnyType:UserWarning"
    ),
    pytest.mark.xdist_group("mlflow-models"),
]
FILES = {None: {"report/page.html": "<p>one</p>"}, 7: {"embeddings.svg": "<svg/>"}}


@pytest.fixture
def place(tmp_path, monkeypatch, mlflow_template):
    """A function that makes a folder the project's, and returns MLflow's client for it."""

    def at(name):
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # which MLflow sets, too
        monkeypatch.setenv("DVC_ROOT", str(tmp_path / name))
        if not (tmp_path / name).exists():
            (tmp_path / name).mkdir()
            shutil.copy(mlflow_template, tmp_path / name / "mlflow.db")
        where = opened()
        from mlflow.tracking import MlflowClient

        return MlflowClient(where)

    return at


def published(folder):
    """A project with a run, its artifacts and its registered model; the model's images."""
    given = case("digits", folder.parent / "given")
    model = embedding_model.load(given.weights, torch.device("cpu"))
    embedding_model.save(folder / "models" / "seed-0.safetensors", model)
    told = record("moved")
    run_id = publish(told, HISTORIES, METRICS, files=FILES)
    keep(
        [Trained(told, run_id, folder / "models", METRICS)],
        given.packing,
        metric=None,
        register=True,
    )
    return given.contents[:5]


@pytest.mark.parametrize("move", [shutil.move, shutil.copytree])
def test_artifacts_and_models_open_after_the_project_was_moved_or_copied(place, tmp_path, move):
    client = place("a place, 1 % far")
    images = published(tmp_path / "a place, 1 % far")
    before = all_of(client, "digits")
    expected = read("models:/heated-digits@champion").predict(images)
    move(tmp_path / "a place, 1 % far", tmp_path / "new")
    shutil.rmtree(tmp_path / "a place, 1 % far", ignore_errors=True)
    client = place("new")
    assert all_of(client, "digits") == before
    assert np.array_equal(read("models:/heated-digits@champion").predict(images), expected)
    publish(record("later"), HISTORIES, METRICS, files=FILES)
    assert not (tmp_path / "a place, 1 % far").exists()


def test_no_path_of_the_former_folder_is_left_anywhere_in_the_store(place, tmp_path):
    place("old")
    published(tmp_path / "old")
    shutil.move(tmp_path / "old", tmp_path / "new")
    place("new")
    with closing(sqlite3.connect(tmp_path / "new" / "mlflow.db")) as store:
        text = "\n".join(store.iterdump())
    kept = [line for line in text.splitlines() if f"{tmp_path}/old/mlartifacts" in line]
    assert kept == []
    assert f"{tmp_path}/new/mlartifacts/digits" in text


def test_a_store_that_was_not_moved_is_left_as_it_is(place, tmp_path):
    place("here")
    publish(record("still"), HISTORIES, METRICS)
    before = (tmp_path / "here" / "mlflow.db").read_bytes()
    settle(tmp_path / "here" / "mlflow.db", tmp_path / "here")
    assert (tmp_path / "here" / "mlflow.db").read_bytes() == before


def test_a_store_that_is_not_there_or_empty_is_none_yet(tmp_path):
    settle(tmp_path / "mlflow.db", tmp_path)
    assert not (tmp_path / "mlflow.db").exists()
    (tmp_path / "mlflow.db").touch()
    settle(tmp_path / "mlflow.db", tmp_path)
    assert (tmp_path / "mlflow.db").read_bytes() == b""


def test_a_store_elsewhere_is_not_touched(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////nowhere/mlflow.db")
    assert opened() == address() == "sqlite:////nowhere/mlflow.db"
