"""A server that several people share, and that is down at times."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
import tracked
from conftest import SHORT
from server_process import Server

from heated.common.errors import InputError
from heated.common.history import read_history
from heated.tracking import publish
from heated.tracking.publish import publish_run, with_retries
from heated.tracking.store import wrap_mlflow_errors

pytestmark = [
    pytest.mark.mlflow,
    pytest.mark.slow,
    pytest.mark.filterwarnings(tracked.MLFLOW_WARNING),
    pytest.mark.xdist_group("mlflow-server"),
]
T = TypeVar("T")
EPOCHS = 60
FAILED = "Tracking failed: "
TRAINING = {
    **SHORT,
    "datasets.digits.training.epochs": EPOCHS,
    "datasets.digits.training.backbone.width": 4,
    "datasets.digits.training.eval_every": 50,
    "tracking.interval_s": 1,
}

PUBLISH = """
import json
from pathlib import Path
from heated.tracking.publish import publish_run, with_retries
record, histories, metrics, files = json.loads(Path("content.json").read_text())
rows = {int(seed): rows for seed, rows in histories.items()}
with_retries(lambda: publish_run(record, rows, metrics, draw=lambda: {None: files}))
"""
# The stage, except that each epoch waits longer than the one before, until there is a file
# `hurry`: on any machine it is still training when the server is up again.
TRAIN_SLOWLY = """
import time
from pathlib import Path
from stages import train
class SlowLogger(train.LiveLogger):
    def log(self, seed, row):
        Path("key").write_text(self.record["key"])
        super().log(seed, row)
        end = time.monotonic() + row["epoch"] / 2
        while time.monotonic() < end and not Path("hurry").exists():
            time.sleep(0.1)
train.LiveLogger = SlowLogger
train.run(train.main)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory, mlflow_template):
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(mlflow_template, folder / "server.db")
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/server.db"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    with Server(command, "/health", folder, environment) as server:
        yield server


@pytest.fixture
def client(server, tmp_path, monkeypatch):
    """MLflow's client. This process has a project's folder of its own and uses the server."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
    monkeypatch.delenv("HEATED_TRACKING", raising=False)
    if not server.is_answering():
        server.start()
    from mlflow.tracking import MlflowClient

    return MlflowClient(server.address)


def find_runs(client: Any, key: str) -> list[Any]:
    experiment = client.get_experiment_by_name("digits")
    query = f"tags.`heated.key` = '{key}'"
    return list(client.search_runs([experiment.experiment_id], query)) if experiment else []


def test_processes_that_publish_at_once_leave_the_same_as_one_after_the_other(client, tmp_path):
    def make_record(dataset: str, method: str) -> dict[str, Any]:
        seeds = {str(seed): {"seconds": 20.0} for seed in tracked.HISTORIES}
        record = tracked.make_record(f"{dataset}{method}", method, seeds=seeds)
        return record | {"dataset": dataset}

    def fields(dataset: str) -> str:
        runs = tracked.experiment_fields(client, dataset)
        return json.dumps(runs, indent=1, default=repr).replace(dataset, "")

    files = {"report/page.html": "<p>é</p>"}
    content = [tracked.HISTORIES, tracked.METRICS]
    methods = ["sm", "bn", "bn", "hbn"]  # one of them twice
    publish_run(make_record("together", "ln"), *content)
    processes = []
    for number, method in enumerate(methods):
        folder = tmp_path / str(number)  # each process has a project's folder of its own
        folder.mkdir()
        text = json.dumps([make_record("together", method), *content, files])
        (folder / "content.json").write_text(text, encoding="utf-8")
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", PUBLISH],
                cwd=folder,
                env=os.environ | {"DVC_ROOT": str(folder)},
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    for process in processes:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    for method in ("ln", *dict.fromkeys(methods)):
        artifacts = {None: files} if method in methods else {}
        publish_run(make_record("alone", method), *content, draw=lambda files=artifacts: files)
    assert fields("together") == fields("alone")


def test_training_loses_no_point_if_the_server_is_down_for_20_s(client, server, project):
    def points(name: str) -> list[tuple[int, float]]:
        key = project.folder / "key"
        runs = find_runs(client, f"{key.read_text()}-0") if key.exists() else []
        assert len(runs) <= 1
        return tracked.metric_points(client, runs[0], name) if runs else []

    def printed() -> str:
        return (project.folder / "output").read_text(encoding="utf-8")

    def await_value(function: Callable[[], T]) -> T:
        while not (value := function()):
            assert process.poll() is None
            time.sleep(0.5)
        return value

    project.edit(TRAINING)
    for stage in (("resolve",), ("download", "digits"), ("split", "digits")):
        project.stage(*stage)
    with (project.folder / "output").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", TRAIN_SLOWLY, "digits", "hbn"],
            cwd=project.folder,
            env=project.environment(MLFLOW_TRACKING_URI=server.address),
            stdout=output,
            stderr=output,
        )
    try:
        before = await_value(lambda: points("schedule/alpha"))
        server.kill()
        time.sleep(20)
        await_value(lambda: FAILED in printed())  # and training continues
        server.start()
        assert process.poll() is None
        (project.folder / "hurry").touch()
        assert process.wait() == 0, printed()
    finally:
        process.kill()
        process.wait()
    assert printed().count(FAILED) == 1
    rows = read_history(project.folder / "runs/digits/hbn/history.csv")[0]
    assert len(before) < len(rows) == EPOCHS
    for name, column in (("schedule/alpha", "alpha"), ("train/loss", "loss")):
        assert points(name) == [(row["epoch"], row[column]) for row in rows]


def test_publishing_is_retried_until_the_server_is_up_again(client, server, monkeypatch):
    server.kill()
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            server.start()

    monkeypatch.setattr(publish.time, "sleep", wait)
    content = (tracked.make_record("waited"), tracked.HISTORIES, tracked.METRICS)
    run_id = with_retries(lambda: publish_run(*content))
    assert run_id == find_runs(client, "waited")[0].info.run_id
    assert waits[:2] == [1, 2]


def test_a_server_that_stays_down_is_reported_with_advice_and_without_a_password(
    client, monkeypatch
):
    with pytest.raises(InputError, match="No Experiment with id=77 exists"), wrap_mlflow_errors():
        client.get_experiment("77")
    monkeypatch.setattr(publish.time, "sleep", lambda seconds: None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    content = (tracked.make_record("gone"), tracked.HISTORIES, tracked.METRICS)
    with pytest.raises(InputError) as caught:
        with_retries(lambda: publish_run(*content))
    assert str(caught.value).startswith("MLflow at http://127.0.0.1:9: ")
    assert "HEATED_TRACKING=off runs without tracking." in str(caught.value)
    assert "secret" not in str(caught.value)
