"""Trainings that SIGKILL interrupts at random moments."""

import json
import random
import shutil
import signal
import sqlite3
import time
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from conftest import SHORT, Project

pytestmark = pytest.mark.xdist_group("resume")
RUN = Path("runs/digits/hbn")
EPOCHS = 20  # enough for a poller that gets little CPU time
LONGER = {
    **SHORT,
    "datasets.digits.training.epochs": EPOCHS,
    "datasets.digits.training.init": "class_means",
    "datasets.digits.training.classifier_lr_mult": 3,
    "datasets.digits.training.optimizer": {"name": "adam_tf", "eps": 0.01},
    "tracking.interval_s": 0.001,
}


def make_project(folder, data=None):
    """A project with EPOCHS epochs, and with packed digits, which may be another project's."""
    folder.mkdir()
    project = Project(folder)
    project.edit(LONGER)
    if data is None:
        project.run("dvc", "repro", "split")
    else:
        shutil.copytree(data.folder / "data", folder / "data")
    return project


def train_command(project):
    python = project.environment()["PATH"].partition(":")[0] + "/python"
    return (python, "-m", "stages.train", "digits", "hbn")


@contextmanager
def running(project, *command, **environment):
    """A process that is killed, with its children, at the end of the block."""
    process = project.start(*command, **environment)
    try:
        yield process
    finally:
        project.stop(process, signal.SIGKILL)


def await_checkpoint(project, process):
    """Wait for a new checkpoint and a random moment; return False if the process ends first."""

    def checkpoints():
        return {path.name for path in (project.folder / "checkpoints").glob("*/*.safetensors")}

    before, delay = checkpoints(), random.uniform(0, 0.3)
    while not checkpoints() - before:
        if process.poll() is not None:
            return False
        time.sleep(0.01)
    print(f"{delay} s after a checkpoint")  # shown if the test fails
    time.sleep(delay)
    return process.poll() is None


def logged_points(project):
    """All points in MLflow except those of the machine, if every run there is finished."""
    query = """select name, key, step, value from metrics join runs using (run_uuid)
               where key not like 'system/%'"""
    with closing(sqlite3.connect(project.folder / "mlflow.db")) as store:
        assert {status for (status,) in store.execute("select status from runs")} == {"FINISHED"}
        return sorted(store.execute(query).fetchall())


def read_results(project):
    """The bytes of the model, and the history."""
    model = (project.folder / RUN / "models" / "seed-0.safetensors").read_bytes()
    return model, (project.folder / RUN / "history.csv").read_text(encoding="utf-8")


def epochs_trained(project):
    record = json.loads((project.folder / RUN / "provenance.json").read_text(encoding="utf-8"))
    return record["seeds"]["0"]["epochs_trained"]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    project = make_project(tmp_path_factory.mktemp("one") / "project")
    project.run(*train_command(project))
    return project


def test_a_training_that_is_killed_repeatedly_gives_the_results_of_an_uninterrupted_one(
    uninterrupted, tmp_path
):
    project, kills = make_project(tmp_path / "project", uninterrupted), 0
    while kills < 3:
        with running(project, *train_command(project)) as process:
            if not await_checkpoint(project, process):
                break
        kills += 1
    assert kills >= 2
    project.run(*train_command(project))
    assert read_results(project) == read_results(uninterrupted)
    assert epochs_trained(project) < EPOCHS
    points = logged_points(project)
    assert points == logged_points(uninterrupted)
    assert len(points) == len({point[:3] for point in points})
    left = [path.name for path in (project.folder / RUN).iterdir()]
    assert sorted(left) == ["history.csv", "models", "provenance.json"]


def test_after_only_dvc_is_killed_the_next_dvc_does_not_repeat_the_running_training(
    uninterrupted, tmp_path
):
    project = make_project(tmp_path / "project")
    with running(project, "dvc", "repro", "train@digits-hbn") as dvc:
        assert await_checkpoint(project, dvc)
        dvc.kill()  # the training continues
        dvc.wait()
        project.run("dvc", "repro", "train@digits-hbn")
    assert read_results(project) == read_results(uninterrupted)
    assert logged_points(project) == logged_points(uninterrupted)


def test_of_two_processes_on_one_run_exactly_one_trains(uninterrupted, tmp_path):
    project = make_project(tmp_path / "project", uninterrupted)
    copy = make_project(tmp_path / "copy", uninterrupted)  # like an experiment's, with one root
    command, root = train_command(project), {"DVC_ROOT": str(project.folder)}
    with running(project, *command) as one, running(copy, *command, **root) as other:
        assert [one.wait(), other.wait()] == [0, 0]
    assert sorted(map(epochs_trained, (project, copy))) == [0, EPOCHS]
    for each in (project, copy):
        assert read_results(each)[0] == read_results(uninterrupted)[0]
