import ast
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from base64 import b64encode
from contextlib import closing
from http.client import HTTPConnection
from importlib.metadata import packages_distributions, version
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from embedders import KINDS, case
from PIL import Image
from test_stages import imported

from heated.common.errors import InputError
from heated.inference import embedder
from heated.tracking import address, models

pytestmark = [
    pytest.mark.mlflow,
    pytest.mark.filterwarnings(  # MLflow's own, when it is imported and sets up its tables
        "ignore:.*Any type hint is inferred as AnyType:UserWarning",
        "ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning",
    ),
    pytest.mark.xdist_group("mlflow-models"),
]


@pytest.fixture(scope="module", autouse=True)
def root(tmp_path_factory, mlflow_template):
    folder = tmp_path_factory.mktemp("project")
    shutil.copy(mlflow_template, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_ROOT", str(folder))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        yield folder


@pytest.fixture(scope="module", params=KINDS)
def given(request, tmp_path_factory):
    return case(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def saved(given, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "model"
    models.save(path, given.weights, given.packing)
    return path


@pytest.fixture(scope="module")
def loaded(saved):
    import mlflow

    return mlflow.pyfunc.load_model(str(saved))


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


def test_a_list_of_images_gets_the_embed_stages_embeddings(given, loaded):
    found = loaded.predict(given.contents)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, given.embeddings, atol=1e-5, rtol=0)


def test_pixels_of_any_size_and_arrays_of_one_are_taken(loaded):
    random = np.random.default_rng(0)
    sizes = [(9, 11, 3), (40, 7), (9, 30, 3)]
    pixels = [random.integers(256, size=size, dtype=np.uint8) for size in sizes]
    assert loaded.predict(pixels).shape == (3, 16)
    batch = random.integers(256, size=(4, 9, 11, 3), dtype=np.uint8)
    assert np.array_equal(loaded.predict(batch), loaded.predict(list(batch)))


def test_a_column_of_a_table_is_taken(given, loaded):
    import pandas as pd

    table = pd.DataFrame({"image": given.contents})
    assert np.array_equal(loaded.predict(table["image"]), loaded.predict(given.contents))
    with pytest.raises(InputError, match="of a table it is the column"):
        loaded.predict(table)


def test_signature_and_example_are_there(loaded):
    assert loaded.metadata.signature is not None
    assert loaded.metadata.get_output_schema().inputs[0].shape == (-1, 16)
    assert loaded.predict(loaded.input_example).shape == (1, 16)


@pytest.mark.parametrize("given", ["photographs"], indirect=True)
def test_nothing_in_it_is_a_pickle(saved):
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


@pytest.mark.parametrize("given", ["photographs"], indirect=True)
def test_requirements_are_what_the_code_imports_in_the_installed_versions(saved):
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


@pytest.mark.slow
@pytest.mark.parametrize("given", ["photographs"], indirect=True)
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


def as_file(image):
    """An image's bytes, as they came or as PNG."""
    if isinstance(image, bytes):
        return image
    file = BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("given", ["photographs"], indirect=True)
def test_served_over_http_it_answers_the_same(given, saved, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
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
        wait_for(server, port, tmp_path / "log")
        encoded = [b64encode(as_file(image)).decode() for image in given.contents[:5]]
        status, answer = asked(port, "POST", "/invocations", {"inputs": encoded})
        assert status == 200
        np.testing.assert_allclose(
            json.loads(answer)["predictions"], given.embeddings[:5], atol=1e-5, rtol=0
        )
        status, answer = asked(
            port, "POST", "/invocations", {"inputs": [encoded[0], "/etc/passwd!"]}
        )
        assert status == 400
        assert "image 1: came text that is not base64" in answer
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()


def wait_for(server, port, log):
    """Until the server answers; fails when it has ended, or after ten minutes."""
    for _ in range(1200):
        assert server.poll() is None, log.read_text()
        try:
            if asked(port, "GET", "/ping")[0] == 200:
                return
        except OSError:
            pass
        time.sleep(0.5)
    pytest.fail(log.read_text())


def asked(port, method, path, value=None):
    """Status and text of the answer."""
    with closing(HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        headers = {"Content-Type": "application/json"}
        connection.request(method, path, json.dumps(value), headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def test_a_packing_that_does_not_fit_leaves_nothing(given, tmp_path):
    with pytest.raises(InputError, match="was trained on images of"):
        models.save(tmp_path / "model", given.weights, {**given.packing, "size": 9})
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("given", ["photographs"], indirect=True)
def test_a_model_in_the_store_is_read_by_its_address(given, saved):
    import mlflow

    mlflow.set_tracking_uri(address())
    with mlflow.start_run() as run:
        mlflow.log_artifacts(str(saved), "model")
    read = models.read(f"runs:/{run.info.run_id}/model")
    assert read.digest == embedder.embedder(given.weights, given.packing).digest


def test_an_address_of_nothing_is_told(root):
    with pytest.raises(InputError, match=r"models:/absent@champion cannot be had from sqlite:"):
        models.read("models:/absent@champion")
