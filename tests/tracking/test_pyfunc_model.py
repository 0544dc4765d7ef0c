"""Models in MLflow: which are logged, registered and champion, and how others load them."""

import json
import os
import shutil
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
from conftest import ROOT
from embedders import KINDS, as_file, case
from server_process import Server
from test_stages import imported_files, imported_names
from tracked import MLFLOW_WARNING, make_record

from heated import config
from heated.common.errors import InputError
from heated.evaluation.metrics import summarize_seeds
from heated.inference import embedder
from heated.models import embedding_model
from heated.tracking import PublishedRun
from heated.tracking.__main__ import main
from heated.tracking.publish import publish_run
from heated.tracking.pyfunc_model import load_from_mlflow, log_models, save_pyfunc
from heated.tracking.store import open_store

pytestmark = [
    pytest.mark.mlflow,
    pytest.mark.filterwarnings(
        MLFLOW_WARNING, "ignore:.*Any type hint is inferred as AnyType:UserWarning"
    ),
    pytest.mark.xdist_group("mlflow-models"),
    pytest.mark.usefixtures("mlflow_folder"),
]
RECALL = {"sm": {0: 0.5, 7: 0.6}, "hbn": {0: 0.7, 7: 0.4}}  # by method and seed
PHOTOGRAPHS = pytest.mark.parametrize("given", ["photographs"], indirect=True)


@pytest.fixture(scope="module", params=KINDS)
def given(request, tmp_path_factory):
    """A small model with its packing, and images with their embeddings."""
    return case(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def saved(given, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "model"
    save_pyfunc(path, given.weights, given.packing)
    return path


@pytest.fixture(scope="module")
def client(mlflow_folder):
    return open_store()


def publish_method(dataset, method, folder, metrics):
    record = make_record(f"{dataset} {method}", method)
    record |= {"dataset": dataset, "params": {"epochs": 0}}
    run_id = publish_run(record, {0: [], 7: []}, metrics)
    return PublishedRun(record, run_id, folder, metrics)


def publish_methods(given, folder, dataset):
    """Publish two methods of two seeds, whose models all differ."""
    runs = []
    for method, recalls in RECALL.items():
        for seed in recalls:
            model = embedding_model.load_model(given.weights, torch.device("cpu"))
            with torch.no_grad():
                next(model.parameters()).add_(len(method) + seed)
            embedding_model.save_model(folder / method / f"seed-{seed}.safetensors", model)
        metrics = summarize_seeds({seed: {"recall_at_1": r} for seed, r in recalls.items()})
        runs.append(publish_method(dataset, method, folder / method, metrics))
    return runs


def logged_models(client, dataset):
    """Return name and run of each model of a data set."""
    experiment = client.get_experiment_by_name(dataset).experiment_id
    return sorted((m.name, m.source_run_id) for m in client.search_logged_models([experiment]))


def champion(client, dataset):
    """Return run and version of a data set's champion."""
    found = client.get_model_version_by_alias(f"heated-{dataset}", "champion")
    return found.run_id, int(found.version)


@PHOTOGRAPHS
def test_the_best_seed_on_validation_classes_is_logged_and_the_best_method_champion(
    given, client, tmp_path
):
    first, second = publish_methods(given, tmp_path, "best")
    log_models([first, second], given.packing, metric="recall_at_1", register=False)
    expected = [("hbn-seed-0", second.run_id), ("sm-seed-7", first.run_id)]
    assert logged_models(client, "best") == expected
    assert client.search_registered_models("name = 'heated-best'") == []
    for run in (client.get_run(each.run_id) for each in (first, second)):
        assert run.outputs.model_outputs
        assert run.info.status == "FINISHED"
    log_models([first, second], given.packing, metric="recall_at_1", register=True)
    assert champion(client, "best") == (second.run_id, 2)


@PHOTOGRAPHS
def test_without_validation_classes_the_first_seed_of_the_first_method_is_the_champion(
    given, client, tmp_path
):
    import mlflow

    first, second = publish_methods(given, tmp_path, "first")
    for _ in range(2):  # the second call writes nothing
        log_models([first, second], given.packing, metric=None, register=True)
    assert [name for name, _ in logged_models(client, "first")] == ["hbn-seed-0", "sm-seed-0"]
    assert len(client.search_model_versions("name = 'heated-first'")) == 2
    loaded = load_from_mlflow("models:/heated-first@champion")
    expected = embedding_model.load_model(first.models / "seed-0.safetensors", torch.device("cpu"))
    assert all(map(torch.equal, loaded.model.parameters(), expected.parameters()))
    pyfunc = mlflow.pyfunc.load_model("models:/heated-first@champion")
    images = given.contents[:5]
    assert np.array_equal(pyfunc.predict(images), loaded.predict(images))

    again = publish_method("first", "sm", first.models, second.metrics)  # with other metrics
    assert again.run_id != first.run_id
    log_models([again, second], given.packing, metric=None, register=True)
    assert len(logged_models(client, "first")) == 2
    assert len(client.get_run(again.run_id).outputs.model_outputs) == 1
    assert champion(client, "first") == (again.run_id, 3)
    shutil.copy(first.models / "seed-7.safetensors", first.models / "seed-0.safetensors")
    log_models([again, second], given.packing, metric=None, register=True)
    assert champion(client, "first") == (again.run_id, 4)


def test_only_validation_classes_choose_a_model(tmp_path):
    for validation, metric in {"null": None, "{folds: 5, fold: 0}": "recall_at_1"}.items():
        for name in config.FILES:
            text = (ROOT / name).read_text(encoding="utf-8")
            changed = text.replace("validation: null", f"validation: {validation}", 1)
            (tmp_path / name).write_text(changed, encoding="utf-8")
        chosen = config.load_params(tmp_path).model_selection("digits")
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
    with pytest.raises(InputError, match="of a table the column of images"):
        loaded.predict(table)
    assert loaded.metadata.signature is not None
    assert loaded.metadata.get_output_schema().inputs[0].shape == (-1, 16)
    assert loaded.predict(loaded.input_example).shape == (1, 16)


@PHOTOGRAPHS
def test_it_has_no_pickle_and_requires_the_packages_that_its_code_imports(saved):
    files = [path for path in saved.rglob("*") if path.is_file()]
    assert {path.relative_to(saved).as_posix() for path in files if "code" not in path.parts} == {
        *("MLmodel", "conda.yaml", "python_env.yaml", "requirements.txt"),
        *("data/model/model.safetensors", "data/model/packing.json"),
        *("input_example.json", "serving_input_example.json"),
    }
    assert not [path for path in files if path.suffix in (".pkl", ".pickle", ".pt", ".pyc")]
    required = dict(line.split("==") for line in (saved / "requirements.txt").read_text().split())
    module = ROOT / "src/heated/inference/embedder.py"
    names = {name for path in {module, *imported_files(module)} for name in imported_names(path)}
    external = {name.split(".")[0] for name in names} - {"heated", *sys.stdlib_module_names}
    packages = {packages_distributions()[name][0].lower() for name in external}
    assert required.keys() == packages | {"mlflow"}
    assert all(version(name).startswith(number) for name, number in required.items())


@PHOTOGRAPHS
def test_a_model_is_loaded_by_address_and_a_wrong_address_or_packing_is_an_error(
    given, saved, tmp_path
):
    import mlflow

    with pytest.raises(InputError, match=r"models:/absent@champion: not available at sqlite:"):
        load_from_mlflow("models:/absent@champion")
    with mlflow.start_run() as run:
        mlflow.log_artifacts(str(saved), "model")
    loaded = load_from_mlflow(f"runs:/{run.info.run_id}/model")
    assert loaded.digest == embedder.make_embedder(given.weights, given.packing).digest
    with pytest.raises(InputError, match="trained on images of"):
        save_pyfunc(tmp_path / "model", given.weights, {**given.packing, "size": 9})
    assert not any(tmp_path.iterdir())


def test_a_database_that_mlflow_cannot_read_is_an_error_with_advice(
    mlflow_template, tmp_path, monkeypatch
):
    database = shutil.copy(mlflow_template, tmp_path / "mlflow.db")
    monkeypatch.setattr(sys, "argv", ["heated.tracking"])
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    advice = "run `make track`, which writes all runs again"
    for problem in ("version", "damaged"):
        if problem == "version":
            with closing(sqlite3.connect(database)) as connection, connection:
                connection.execute("UPDATE alembic_version SET version_num = 'another'")
        else:
            database.write_bytes(b"no database")
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # MLflow itself sets it
        with pytest.raises(InputError, match=f"^MLflow at sqlite:///{database}: .*\n.*{advice}"):
            load_from_mlflow("models:/heated-digits@champion")
        with pytest.raises(SystemExit, match=advice):
            main()  # of the pages


@pytest.mark.slow
@PHOTOGRAPHS
def test_a_process_without_this_project_loads_it(given, saved, tmp_path):
    code = (
        "import json, pathlib, sys, mlflow\n"
        "model = mlflow.pyfunc.load_model(sys.argv[1])\n"
        "files = [pathlib.Path(p).read_bytes() for p in sys.argv[2:]]\n"
        "print(json.dumps([sys.modules['heated'].__file__, model.predict(files).tolist()]))"
    )
    files = [tmp_path / str(number) for number in range(3)]
    for file, content in zip(files, given.contents, strict=False):
        file.write_bytes(as_file(content))
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "DVC_ROOT")}
    command = [sys.executable, "-c", code, saved, *files]
    output = subprocess.check_output(command, cwd=tmp_path, env=environment, text=True)
    package, embeddings = json.loads(output.splitlines()[-1])
    assert package == str(saved / "code" / "heated" / "__init__.py")
    np.testing.assert_allclose(embeddings, given.embeddings[:3], atol=1e-5, rtol=0)


@pytest.mark.slow
@PHOTOGRAPHS
def test_it_gives_the_same_embeddings_over_http(given, saved, tmp_path):
    def post(inputs):
        host = server.address.removeprefix("http://")
        with closing(HTTPConnection(host, timeout=60)) as connection:
            headers = {"Content-Type": "application/json"}
            connection.request("POST", "/invocations", json.dumps({"inputs": inputs}), headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", str(saved)]
    command += ["--env-manager", "local", "--host", "127.0.0.1"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # of uvicorn
    with Server(command, "/ping", tmp_path, os.environ | {"PATH": path}) as server:
        encoded = [b64encode(as_file(image)).decode() for image in given.contents[:5]]
        status, answer = post(encoded)
        assert status == 200
        embeddings = json.loads(answer)["predictions"]
        np.testing.assert_allclose(embeddings, given.embeddings[:5], atol=1e-5, rtol=0)
        status, answer = post([encoded[0], "/etc/passwd!"])
        assert status == 400
        assert "image 1: " in answer
        assert "base64" in answer
