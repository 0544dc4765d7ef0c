"""A server that several people share, and that goes away at times."""

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
from mlflow_server import Server

from heated.common.errors import InputError
from heated.common.history import read_history
from heated.tracking import publishing
from heated.tracking.publishing import patiently, publish
from heated.tracking.store import told

pytestmark = [
    pytest.mark.mlflow,
    pytest.mark.slow,
    pytest.mark.filterwarnings(tracked.MLFLOWS),
    pytest.mark.xdist_group("mlflow-server"),
]
T = TypeVar("T")
OUTAGE = 20  # seconds
EPOCHS = 60
FAILED = "tracking failed, the stage track will make up for it"
TRAINING = {
    **SHORT,
    "datasets.digits.training.epochs": EPOCHS,
    "datasets.digits.training.backbone.width": 4,
    "datasets.digits.training.watch_every": 50,
    "tracking.every": 1,
}

PUBLISHES = """
import json, sys
from heated.tracking.publishing import patiently, publish
record, histories, metrics, files = json.loads(sys.stdin.read())
rows = {int(seed): rows for seed, rows in histories.items()}
patiently(lambda: publish(record, rows, metrics, files=lambda: {None: files}))
"""
TRAINS = """
import json, sys, time
from heated.tracking.live import live
record, rows, pause = json.loads(sys.stdin.read())
with live(record, enabled=True, every=0.5) as log:
    for row in rows:
        time.sleep(pause)
        log.log(0, row)
"""
# The stage as it is, but that each epoch waits longer than the one before, until there is a file
# `hurry`: on any machine it is still training when the server comes back.
SLOWLY = """
import time
from contextlib import contextmanager
from pathlib import Path
from stages import train
live = train.live
@contextmanager
def slow(record, *options):
    Path("key").write_text(record["key"])
    with live(record, *options) as log:
        yield Paced(log)
class Paced:
    def __init__(self, logger):
        self.logger = logger
    def log(self, seed, row):
        self.logger.log(seed, row)
        end = time.monotonic() + row["epoch"] / 2
        while time.monotonic() < end and not Path("hurry").exists():
            time.sleep(0.1)
train.live = slow
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
    """MLflow's; the process has a project's folder of its own, and publishes to the server."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
    monkeypatch.delenv("HEATED_TRACKING", raising=False)
    if not server.answers():
        server.start()
    from mlflow.tracking import MlflowClient

    return MlflowClient(server.address)


def started(code: str, folder: Path, given: Any) -> subprocess.Popen[str]:
    """A process that has a project's folder of its own, and gets JSON."""
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
    process.stdin.write(json.dumps(given))
    process.stdin.close()
    process.stdin = None
    return process


def record(dataset: str, method: str) -> dict[str, Any]:
    """That of a training that is over."""
    seeds = {str(seed): {"seconds": 20.0} for seed in tracked.HISTORIES}
    given = tracked.record(f"{dataset}{method}", method, seeds=seeds)
    return given | {"dataset": dataset}


def test_several_that_write_at_once_leave_what_one_after_the_other_does(
    client: Any, tmp_path: Path
) -> None:
    files = {"report/page.html": "<p>é</p>"}
    given = [tracked.HISTORIES, tracked.METRICS, files]
    methods = ["sm", "bn", "bn", "hbn"]  # two of them the same
    publish(record("together", "ln"), *given[:2])
    processes = [
        started(PUBLISHES, tmp_path / str(number), [record("together", method), *given])
        for number, method in enumerate(methods)
    ]
    for process in processes:
        _, problems = process.communicate(timeout=300)
        assert process.returncode == 0, problems
    for method in ("ln", *dict.fromkeys(methods)):
        again = {None: files} if method in methods else {}
        publish(record("alone", method), *given[:2], files=lambda again=again: again)
    together, alone = (tracked.told(client, name) for name in ("together", "alone"))
    assert together.replace("together", "") == alone.replace("alone", "")


def test_a_server_that_is_away_for_20_s_of_a_training_costs_no_point(
    client: Any, server: Server, project: Project
) -> None:
    project.edit(TRAINING)
    for stage in (("resolve",), ("download", "digits"), ("split", "digits")):
        project.stage(*stage)
    with slowly_trained(project, server) as process:
        before = awaited(process, lambda: points(client, project, "schedule/alpha"))
        server.kill()
        time.sleep(OUTAGE)
        awaited(process, lambda: FAILED in told_by(project))  # and it goes on
        server.start()
        assert process.poll() is None
        (project.folder / "hurry").touch()
        assert process.wait() == 0, told_by(project)
    assert told_by(project).count(FAILED) == 1
    rows = read_history(project.folder / "runs/digits/hbn/history.csv")[0]
    assert len(before) < len(rows) == EPOCHS
    for name, column in (("schedule/alpha", "alpha"), ("train/loss", "loss")):
        assert points(client, project, name) == [(row["epoch"], row[column]) for row in rows]


@contextmanager
def slowly_trained(project: Project, server: Server) -> Iterator[subprocess.Popen[bytes]]:
    """The stage `train`, published to the server; what it prints is in a file."""
    arguments = ("digits", "hbn")
    with (project.folder / "told").open("wb") as told:
        process = subprocess.Popen(
            [sys.executable, "-c", SLOWLY, *arguments],
            cwd=project.folder,
            env=project.environment(MLFLOW_TRACKING_URI=server.address),
            stdout=told,
            stderr=told,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def told_by(project: Project) -> str:
    """What the training printed so far."""
    return (project.folder / "told").read_text(encoding="utf-8")


def awaited(process: subprocess.Popen[bytes], found: Callable[[], T]) -> T:
    """What is found, once there is something; the process has not ended by then."""
    while not (something := found()):
        assert process.poll() is None
        time.sleep(0.5)
    assert process.poll() is None
    return something


def points(client: Any, project: Project, name: str) -> list[tuple[int, float]]:
    """Step and value of every point of a metric of the one seed that the project trains."""
    key = project.folder / "key"
    runs = found(client, f"{key.read_text()}-0") if key.exists() else []
    assert len(runs) <= 1
    history = [point for run in runs for point in client.get_metric_history(run.info.run_id, name)]
    return sorted((point.step, point.value) for point in history)


def found(client: Any, key: str) -> list[Any]:
    """The runs of a key."""
    experiment = client.get_experiment_by_name("digits")
    ids = [experiment.experiment_id] if experiment else []
    return list(client.search_runs(ids, f"tags.`heated.key` = '{key}'")) if ids else []


def test_what_a_server_that_stays_away_missed_is_sent_by_the_next_publishing(
    client: Any, server: Server, tmp_path: Path
) -> None:
    server.kill()
    process = started(
        TRAINS, tmp_path / "project", [tracked.record("missed"), tracked.history(0), 1]
    )
    _, problems = process.communicate(timeout=300)
    assert process.returncode == 0, problems
    assert FAILED in problems
    server.start()
    publish(tracked.record("missed"), tracked.HISTORIES, tracked.METRICS)
    (run,) = found(client, "missed-0")
    points = client.get_metric_history(run.info.run_id, "schedule/alpha")
    assert [(p.step, p.value) for p in points] == list(enumerate(tracked.ALPHAS))


def test_a_server_that_comes_back_is_waited_for(
    client: Any, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.kill()
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            server.start()

    monkeypatch.setattr(publishing.time, "sleep", wait)
    given = (tracked.record("waited"), tracked.HISTORIES, tracked.METRICS)
    assert patiently(lambda: publish(*given)) == found(client, "waited")[0].info.run_id
    assert waits[:2] == [1, 2]


def test_a_server_that_does_not_come_back_is_told_with_what_to_do_and_without_a_password(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing.time, "sleep", lambda seconds: None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    with pytest.raises(InputError) as caught:
        patiently(lambda: publish(tracked.record("gone"), tracked.HISTORIES, tracked.METRICS))
    assert str(caught.value).startswith("MLflow at http://127.0.0.1:9: ")
    assert "HEATED_TRACKING=off goes without it" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_an_error_of_mlflow_is_told_as_one_that_a_user_can_put_right(client: Any) -> None:
    with pytest.raises(InputError, match="No Experiment with id=77 exists"), told():
        client.get_experiment("77")
