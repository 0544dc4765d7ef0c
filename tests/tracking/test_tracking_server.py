"""A server that several people share, and that is down at times."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
import tracked
from conftest import SHORT, Project
from mlflow_server import Server, is_answering

from heated.common.errors import InputError
from heated.common.history import read_history
from heated.tracking import publish
from heated.tracking.client import wrap_mlflow_errors
from heated.tracking.publish import publish_run, with_retries

pytestmark = [
    pytest.mark.mlflow,
    pytest.mark.slow,
    pytest.mark.filterwarnings(tracked.MLFLOW_WARNING),
    pytest.mark.xdist_group("mlflow-server"),
]
T = TypeVar("T")
OUTAGE = 20  # seconds
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
import json, sys
from heated.tracking.publish import publish_run, with_retries
record, histories, metrics, files = json.loads(sys.stdin.read())
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
def server(tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    shutil.copy(mlflow_template, server.folder / "server.db")
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture
def client(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """MLflow's client. This process has a project's folder of its own and uses the server."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
    monkeypatch.delenv("HEATED_TRACKING", raising=False)
    if not is_answering(f"{server.address}/health"):
        server.start()
    from mlflow.tracking import MlflowClient

    return MlflowClient(server.address)


def start(code: str, folder: Path, value: Any) -> subprocess.Popen[str]:
    """Start a process with a project's folder of its own, and JSON as its input."""
    folder.mkdir(exist_ok=True)
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "DVC_ROOT": str(folder)},
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(value))
    process.stdin.close()
    process.stdin = None
    return process


def find_runs(client: Any, key: str) -> list[Any]:
    experiment = client.get_experiment_by_name("digits")
    query = f"tags.`heated.key` = '{key}'"
    return list(client.search_runs([experiment.experiment_id], query)) if experiment else []


def test_processes_that_publish_at_once_leave_the_same_as_one_after_the_other(
    client: Any, tmp_path: Path
) -> None:
    def record(dataset: str, method: str) -> dict[str, Any]:
        seeds = {str(seed): {"seconds": 20.0} for seed in tracked.HISTORIES}
        record = tracked.make_record(f"{dataset}{method}", method, seeds=seeds)
        return record | {"dataset": dataset}

    def fields(dataset: str) -> str:
        runs = tracked.experiment_fields(client, dataset)
        return json.dumps(runs, indent=1, default=repr).replace(dataset, "")

    files = {"report/page.html": "<p>é</p>"}
    content = [tracked.HISTORIES, tracked.METRICS]
    methods = ["sm", "bn", "bn", "hbn"]  # one of them twice
    publish_run(record("together", "ln"), *content)
    processes = [
        start(PUBLISH, tmp_path / str(number), [record("together", method), *content, files])
        for number, method in enumerate(methods)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    for method in ("ln", *dict.fromkeys(methods)):
        artifacts = {None: files} if method in methods else {}
        publish_run(record("alone", method), *content, draw=lambda files=artifacts: files)
    assert fields("together") == fields("alone")


def test_training_loses_no_point_if_the_server_is_down_for_20_s(
    client: Any, server: Server, project: Project
) -> None:
    def points(name: str) -> list[tuple[int, float]]:
        key = project.folder / "key"
        runs = find_runs(client, f"{key.read_text()}-0") if key.exists() else []
        assert len(runs) <= 1
        return tracked.metric_points(client, runs[0], name) if runs else []

    def output() -> str:
        return (project.folder / "output").read_text(encoding="utf-8")

    def await_value(function: Callable[[], T]) -> T:
        while not (value := function()):
            assert process.poll() is None
            time.sleep(0.5)
        assert process.poll() is None
        return value

    project.edit(TRAINING)
    for stage in (("resolve",), ("download", "digits"), ("split", "digits")):
        project.stage(*stage)
    with train_slowly(project, server) as process:
        before = await_value(lambda: points("schedule/alpha"))
        server.kill()
        time.sleep(OUTAGE)
        await_value(lambda: FAILED in output())  # and training continues
        server.start()
        assert process.poll() is None
        (project.folder / "hurry").touch()
        assert process.wait() == 0, output()
    assert output().count(FAILED) == 1
    rows = read_history(project.folder / "runs/digits/hbn/history.csv")[0]
    assert len(before) < len(rows) == EPOCHS
    for name, column in (("schedule/alpha", "alpha"), ("train/loss", "loss")):
        assert points(name) == [(row["epoch"], row[column]) for row in rows]


@contextmanager
def train_slowly(project: Project, server: Server) -> Iterator[subprocess.Popen[bytes]]:
    """Run the stage `train`, published to the server, with its output in a file."""
    with (project.folder / "output").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", TRAIN_SLOWLY, "digits", "hbn"],
            cwd=project.folder,
            env=project.environment(MLFLOW_TRACKING_URI=server.address),
            stdout=output,
            stderr=output,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_publishing_is_retried_until_the_server_is_up_again(
    client: Any, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
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
