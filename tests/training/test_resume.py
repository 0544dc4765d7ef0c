"""Training that is killed, by SIGKILL and at moments that differ from run to run."""

import json
import random
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from conftest import SHORT, Project

RUN = Path("runs/digits/hbn")
EPOCHS = 20  # enough for a poller that gets little of the processor
LONGER = {
    **SHORT,
    "datasets.digits.training.epochs": EPOCHS,
    "datasets.digits.training.warm_up": "class_means",
    "datasets.digits.training.head_lr_factor": 3,
    "datasets.digits.training.optimiser": {"name": "adam_tf", "eps": 0.01},
    "tracking.every": 0.001,
}


def prepared(folder: Path, data: Project | None = None) -> Project:
    """A project with packed digits (of another project, where there is one) and a short recipe of
    EPOCHS epochs, each published at once."""
    folder.mkdir()
    project = Project(folder)
    project.edit(LONGER)
    if data is None:
        project.run("dvc", "repro", "split")
    else:
        shutil.copytree(data.folder / "data", folder / "data")
    return project


def train(project: Project) -> tuple[str, ...]:
    """The command of the stage."""
    python = project.environment()["PATH"].partition(":")[0] + "/python"
    return (python, "-m", "stages.train", "digits", "hbn")


def checkpoints(project: Project) -> set[str]:
    return {path.name for path in (project.folder / "checkpoints").glob("*/*.safetensors")}


@contextmanager
def started(
    project: Project, *command: str, **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with the block, and so does all it started."""
    process = project.start(*command, **environment)
    try:
        yield process
    finally:
        project.stop(process, signal.SIGKILL)


def await_checkpoint(project: Project, process: subprocess.Popen[bytes]) -> bool:
    """Wait for a checkpoint that was not there, then a moment, which a test that fails tells;
    False if the process ends first."""
    before, moment = checkpoints(project), random.uniform(0, 0.3)
    while not checkpoints(project) - before:
        if process.poll() is not None:
            return False
        time.sleep(0.01)
    print(f"{moment} s after a checkpoint")
    time.sleep(moment)
    return process.poll() is None


def tracked(project: Project) -> tuple[list[str], list[tuple]]:
    """The status of each run in MLflow, and all points but the machine's, doubled ones twice."""
    query = """select name, key, step, value from metrics join runs using (run_uuid)
               where key not like 'system/%'"""
    with closing(sqlite3.connect(project.folder / "mlflow.db")) as store:
        states = [state for (state,) in store.execute("select status from runs")]
        return states, sorted(store.execute(query).fetchall())


def results(project: Project) -> tuple[bytes, str]:
    model = (project.folder / RUN / "models" / "seed-0.safetensors").read_bytes()
    return model, (project.folder / RUN / "history.csv").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = prepared(tmp_path_factory.mktemp("one") / "project")
    project.run(*train(project))
    return project


@pytest.mark.xdist_group("resume")
def test_a_trainer_killed_again_and_again_ends_where_one_does_that_was_left_alone(
    uninterrupted: Project, tmp_path: Path
) -> None:
    project, kills = prepared(tmp_path / "project", uninterrupted), 0
    while kills < 3:
        with started(project, *train(project)) as process:
            if not await_checkpoint(project, process):
                break
        kills += 1
    assert kills >= 2
    project.run(*train(project))
    assert results(project) == results(uninterrupted)
    record = json.loads((project.folder / RUN / "provenance.json").read_text(encoding="utf-8"))
    assert record["seeds"]["0"]["epochs_trained"] < EPOCHS
    states, points = tracked(project)
    assert set(states) == {"FINISHED"}
    assert points == tracked(uninterrupted)[1]
    assert len(points) == len({point[:3] for point in points})
    left = [path.name for path in (project.folder / RUN).iterdir()]
    assert sorted(left) == ["history.csv", "models", "provenance.json"]


@pytest.mark.xdist_group("resume")
def test_dvc_killed_alone_leaves_a_trainer_that_the_next_dvc_does_not_double(
    uninterrupted: Project, tmp_path: Path
) -> None:
    project = prepared(tmp_path / "project")
    with started(project, "dvc", "repro", "train@digits-hbn") as dvc:
        assert await_checkpoint(project, dvc)
        dvc.kill()  # its trainer goes on
        dvc.wait()
        project.run("dvc", "repro", "train@digits-hbn")
    assert results(project) == results(uninterrupted)
    states, points = tracked(project)
    assert set(states) == {"FINISHED"}
    assert points == tracked(uninterrupted)[1]


@pytest.mark.xdist_group("resume")
def test_of_two_trainers_on_one_run_exactly_one_trains(
    uninterrupted: Project, tmp_path: Path
) -> None:
    project = prepared(tmp_path / "project", uninterrupted)
    copy = prepared(tmp_path / "copy", uninterrupted)  # as an experiment's, with one root
    python = train(project)
    root = {"DVC_ROOT": str(project.folder)}
    with started(project, *python) as one, started(copy, *python, **root) as other:
        assert [one.wait(), other.wait()] == [0, 0]
    folders = [each.folder / RUN for each in (project, copy)]
    records = [json.loads((folder / "provenance.json").read_text()) for folder in folders]
    trained = sorted(record["seeds"]["0"]["epochs_trained"] for record in records)
    assert trained == [0, EPOCHS]
    models = [(folder / "models" / "seed-0.safetensors").read_bytes() for folder in folders]
    assert models == [results(uninterrupted)[0]] * 2
