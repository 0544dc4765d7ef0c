"""Models in MLflow: what is logged, registered and chosen, and what anybody loads."""

import ast
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from base64 import b64encode
from contextlib import closing
from http.client import HTTPConnection
from importlib.metadata import packages_distributions, version
from pathlib import Path

import numpy as np
import pytest
import torch
import tracked
from conftest import ROOT
from embedders import KINDS, as_file, case
from mlflow_server import await_answer, free_port
from test_stages import imported

from heated import config
from heated.common.errors import InputError
from heated.evaluation.summary import summaries
from heated.inference import embedder
from heated.models import embedding_model
from heated.tracking import Trained, models
from heated.tracking.__main__ import main
from heated.tracking.publishing import publish
from heated.tracking.store import opened

pytestmark = [
    pytest.mark.mlflow,
    pytest.mark.filterwarnings(
        tracked.MLFLOWS, "ignore:.*Any type hint is inferred as AnyType:UserWarning"
    ),
    pytest.mark.xdist_group("mlflow-models"),
    pytest.mark.usefixtures("mlflow_folder"),
]
RECALL = {"sm": {0: 0.5, 7: 0.6}, "hbn": {0: 0.7, 7: 0.4}}  # by method and seed
PHOTOGRAPHS = pytest.mark.parametrize("given", ["photographs"], indirect=True)


@pytest.fixture(scope="module", params=KINDS)
def given(request, tmp_path_factory):
    return case(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def saved(given, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "model"
    models.save(path, given.weights, given.packing)
    return path


@pytest.fixture(scope="module")
def client(mlflow_folder):
    return opened()


def record(dataset, method):
    given = tracked.record(f"{dataset} {method}", method)
    return given | {"dataset": dataset, "params": {"epochs": 0}}


def trained(given, folder, dataset):
    """Two methods of two seeds, whose models all differ."""
    found = []
    for method, recalls in RECALL.items():
        for seed in recalls:
            model = embedding_model.load(given.weights, torch.device("cpu"))
            with torch.no_grad():
                next(model.parameters()).add_(len(method) + seed)
            embedding_model.save(folder / method / f"seed-{seed}.safetensors", model)
        metrics = summaries({seed: {"recall_at_1": r} for seed, r in recalls.items()})
        run_id = publish(record(dataset, method), {0: [], 7: []}, metrics)
        found.append(Trained(record(dataset, method), run_id, folder / method, metrics))
    return found


def logged(client, dataset):
    """Name and run of each model of a data set."""
    experiment = client.get_experiment_by_name(dataset).experiment_id
    return sorted((m.name, m.source_run_id) for m in client.search_logged_models([experiment]))


def version_of(client, dataset):
    """The champion's."""
    return client.get_model_version_by_alias(f"heated-{dataset}", "champion")


@PHOTOGRAPHS
def test_the_best_seed_on_validation_classes_is_logged_and_the_best_method_champion(
    given, client, tmp_path
):
    runs = trained(given, tmp_path, "best")
    models.keep(runs, given.packing, metric="recall_at_1", register=False)
    assert logged(client, "best") == sorted(
        [("sm-seed-7", runs[0].run_id), ("hbn-seed-0", runs[1].run_id)]
    )
    assert client.search_registered_models("name = 'heated-best'") == []
    for run in runs:
        assert client.get_run(run.run_id).outputs.model_outputs
        assert client.get_run(run.run_id).info.status == "FINISHED"
    models.keep(runs, given.packing, metric="recall_at_1", register=True)
    assert version_of(client, "best").run_id == runs[1].run_id


@PHOTOGRAPHS
def test_without_validation_classes_the_first_seed_of_the_first_method_is_the_champion(
    given, client, tmp_path
):
    import mlflow

    runs = trained(given, tmp_path, "first")
    for _ in range(2):  # what is there is not written again
        models.keep(runs, given.packing, metric=None, register=True)
    assert [name for name, _ in logged(client, "first")] == ["hbn-seed-0", "sm-seed-0"]
    assert len(client.search_model_versions("name = 'heated-first'")) == 2
    read = models.read("models:/heated-first@champion")
    expected = embedding_model.load(runs[0].models / "seed-0.safetensors", torch.device("cpu"))
    assert all(map(torch.equal, read.model.parameters(), expected.parameters()))
    loaded = mlflow.pyfunc.load_model("models:/heated-first@champion")
    images = given.contents[:5]
    assert np.array_equal(loaded.predict(images), read.predict(images))

    again = publish(record("first", "sm"), {0: [], 7: []}, runs[1].metrics)  # measured anew
    anew = Trained(record("first", "sm"), again, runs[0].models, runs[1].metrics)
    models.keep([anew, runs[1]], given.packing, metric=None, register=True)
    assert again != runs[0].run_id
    assert len(logged(client, "first")) == 2
    assert len(client.get_run(again).outputs.model_outputs) == 1
    assert version_of(client, "first").run_id == again
    assert int(version_of(client, "first").version) == 3

    shutil.copy(runs[0].models / "seed-7.safetensors", runs[0].models / "seed-0.safetensors")
    models.keep([anew, runs[1]], given.packing, metric=None, register=True)
    assert int(version_of(client, "first").version) == 4


@pytest.mark.parametrize(
    ("validation", "metric"), [("null", None), ("{folds: 5, fold: 0}", "recall_at_1")]
)
def test_params_choose_by_validation_classes_alone(tmp_path, validation, metric):
    for name in config.FILES:
        text = (ROOT / name).read_text(encoding="utf-8")
        changed = text.replace("validation: null", f"validation: {validation}", 1)
        (tmp_path / name).write_text(changed, encoding="utf-8")
    chosen = config.load(tmp_path).chosen_by("digits")
    assert chosen["metric"] == metric
    assert chosen["packing"]["size"] == 8


def test_a_loaded_model_takes_images_pixels_and_columns_as_an_embedder_does(given, saved):
    import mlflow
    import pandas as pd

    loaded = mlflow.pyfunc.load_model(str(saved))
    found = loaded.predict(given.contents)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, given.embeddings, atol=1e-5, rtol=0)
    random = np.random.default_rng(0)
    sizes = [(9, 11, 3), (40, 7), (9, 30, 3)]
    pixels = [random.integers(256, size=size, dtype=np.uint8) for size in sizes]
    assert loaded.predict(pixels).shape == (3, 16)
    batch = random.integers(256, size=(4, 9, 11, 3), dtype=np.uint8)
    assert np.array_equal(loaded.predict(batch), loaded.predict(list(batch)))
    table = pd.DataFrame({"image": given.contents})
    assert np.array_equal(loaded.predict(table["image"]), found)
    with pytest.raises(InputError, match="of a table it is the column"):
        loaded.predict(table)
    assert loaded.metadata.signature is not None
    assert loaded.metadata.get_output_schema().inputs[0].shape == (-1, 16)
    assert loaded.predict(loaded.input_example).shape == (1, 16)


@PHOTOGRAPHS
def test_nothing_in_it_is_a_pickle_and_requirements_are_what_the_code_imports(saved):
    files = [path for path in saved.rglob("*") if path.is_file()]
    assert {path.relative_to(saved).as_posix() for path in files if "code" not in path.parts} == {
        "MLmodel",
        "conda.yaml",
        "data/model/model.safetensors",
        "data/model/packing.json",
        "input_example.json",
        "python_env.yaml",
        "requirements.txt",
        "serving_input_example.json",
    }
    assert not [path for path in files if path.suffix in (".pkl", ".pickle", ".pt", ".pyc")]
    required = dict(line.split("==") for line in (saved / "requirements.txt").read_text().split())
    files = imported(ROOT / "src/heated/inference/embedder.py") | {
        ROOT / "src/heated/inference/embedder.py"
    }
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in files]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    names = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    names |= {each.name for node in nodes if isinstance(node, ast.Import) for each in node.names}
    outside = {name.split(".")[0] for name in names} - {"heated", *sys.stdlib_module_names}
    packages = {packages_distributions()[name][0].lower() for name in outside}
    assert required.keys() == packages | {"mlflow"}
    assert all(version(name).startswith(number) for name, number in required.items())


@PHOTOGRAPHS
def test_a_model_is_read_by_its_address_and_a_wrong_address_or_packing_is_told(
    given, saved, tmp_path
):
    import mlflow

    with pytest.raises(InputError, match=r"models:/absent@champion cannot be had from sqlite:"):
        models.read("models:/absent@champion")
    with mlflow.start_run() as run:
        mlflow.log_artifacts(str(saved), "model")
    read = models.read(f"runs:/{run.info.run_id}/model")
    assert read.digest == embedder.embedder(given.weights, given.packing).digest
    with pytest.raises(InputError, match="was trained on images of"):
        models.save(tmp_path / "model", given.weights, {**given.packing, "size": 9})
    assert not any(tmp_path.iterdir())


def test_a_database_that_mlflow_cannot_read_is_told_with_what_to_do(
    mlflow_template, tmp_path, monkeypatch
):
    monkeypatch.setattr(sys, "argv", ["heated.tracking"])
    for problem in ("damaged", "version"):
        folder = tmp_path / problem
        folder.mkdir()
        database = shutil.copy(mlflow_template, folder / "mlflow.db")
        if problem == "damaged":
            database.write_bytes(b"no database")
        else:
            with closing(sqlite3.connect(database)) as connection, connection:
                connection.execute("UPDATE alembic_version SET version_num = 'another'")
        monkeypatch.setenv("DVC_ROOT", str(folder))
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # MLflow itself sets it
        with pytest.raises(InputError) as caught:
            models.read("models:/heated-digits@champion")
        lines = str(caught.value).splitlines()
        assert lines[0].startswith(f"MLflow at sqlite:///{database}: ")
        assert "delete mlflow.db and run `make track`" in lines[1]
        assert len(lines) == 2
        with pytest.raises(SystemExit, match="delete mlflow.db and run `make track`"):
            main()  # of the pages


def alone(folder, code, *arguments):
    """What a process prints that knows this package from the model alone."""
    hidden = {"PYTHONPATH", "DVC_ROOT"}
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=folder,
        env={k: v for k, v in os.environ.items() if k not in hidden},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@pytest.mark.slow
@PHOTOGRAPHS
def test_another_process_elsewhere_loads_it_without_this_project(given, saved, tmp_path):
    code = (
        "import json, pathlib, sys, mlflow\n"
        "model = mlflow.pyfunc.load_model(sys.argv[1])\n"
        "files = [pathlib.Path(p).read_bytes() for p in sys.argv[2:]]\n"
        "print(json.dumps([sys.modules['heated'].__file__, model.predict(files).tolist()]))"
    )
    files = [tmp_path / str(number) for number in range(3)]
    for file, content in zip(files, given.contents, strict=False):
        file.write_bytes(as_file(content))
    code_of, found = json.loads(alone(tmp_path, code, saved, *files).splitlines()[-1])
    assert code_of == str(saved / "code" / "heated" / "__init__.py")
    np.testing.assert_allclose(found, given.embeddings[:3], atol=1e-5, rtol=0)


@pytest.mark.slow
@PHOTOGRAPHS
def test_served_over_http_it_answers_the_same(given, saved, tmp_path):
    port = free_port()
    with (tmp_path / "log").open("wb") as log:
        command = ["-m", "mlflow", "models", "serve", "--model-uri", str(saved)]
        options = ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
        binaries = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # of uvicorn
        server = subprocess.Popen(
            [sys.executable, *command, *options],
            cwd=tmp_path,
            env={**os.environ, "PATH": binaries},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        await_answer(server, f"http://127.0.0.1:{port}/ping", tmp_path / "log")
        encoded = [b64encode(as_file(image)).decode() for image in given.contents[:5]]
        status, answer = asked(port, {"inputs": encoded})
        assert status == 200
        np.testing.assert_allclose(
            json.loads(answer)["predictions"], given.embeddings[:5], atol=1e-5, rtol=0
        )
        status, answer = asked(port, {"inputs": [encoded[0], "/etc/passwd!"]})
        assert status == 400
        assert "image 1: came text that is not base64" in answer
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()


def asked(port, value):
    """Status and text of the answer."""
    with closing(HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/invocations", json.dumps(value), headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
