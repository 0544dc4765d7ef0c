"""The stage `track` restores a deleted store from the files that DVC tracks, and adds nothing."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import tracked
from conftest import Project

pytestmark = [
    pytest.mark.mlflow,
    pytest.mark.filterwarnings(tracked.MLFLOW_WARNING),
    pytest.mark.xdist_group("built"),
]
EXPERIMENTS = ("digits", "digits-upright")
Fields = dict[str, list[dict[str, Any]]]


def stored(project: Project, copy: Path) -> Fields:
    """Return note and runs of each experiment, from a copy, since a client keeps its file open."""
    shutil.copy(project.folder / "mlflow.db", copy)
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{copy}")
    notes = {name: client.get_experiment_by_name(name).tags for name in EXPERIMENTS}
    return {name: [notes[name], *tracked.experiment_fields(client, name)] for name in EXPERIMENTS}


def delete_store(project: Project) -> None:
    (project.folder / "mlflow.db").unlink()
    shutil.rmtree(project.folder / "mlartifacts")


@pytest.fixture(scope="module")
def followed(built: Project) -> Project:
    """The project with a store that followed the training, epoch by epoch."""
    delete_store(built)
    shutil.rmtree(built.folder / "checkpoints")
    with built.edited({"tracking.interval_s": 0.001}):
        built.run("dvc", "repro", "--force", "--single-item", "train@digits-hbn")
    built.run("dvc", "repro")
    return built


@pytest.fixture
def before(followed: Project, tmp_path: Path) -> Fields:
    return stored(followed, tmp_path / "before.db")


def test_a_deleted_store_is_restored_with_every_field(
    followed: Project, before: Fields, tmp_path: Path
) -> None:
    delete_store(followed)
    followed.run("make", "track")
    after = stored(followed, tmp_path / "after.db")
    for name in EXPERIMENTS:
        for one, other in zip(before[name], after[name], strict=True):
            assert one == other
    names = ["hbn · digits", "hbn · digits · seed 0", "report · digits"]
    assert [run["name"] for run in after["digits"][1:]] == names


def test_tracking_again_adds_nothing(followed: Project, before: Fields, tmp_path: Path) -> None:
    followed.run("make", "track")
    assert stored(followed, tmp_path / "after.db") == before


def test_runs_have_the_report_their_curves_pictures_and_use_of_the_machine(
    followed: Project, before: Fields
) -> None:
    runs = {run["name"]: run for runs in before.values() for run in runs[1:]}
    files = {name: run["artifacts"] for name, run in runs.items()}
    names = {"curves.svg", "history.csv", "metrics.json", "provenance.json"}
    assert files["hbn · digits"].keys() == names
    assert files["hbn · digits · seed 0"] == {}
    pictures = {"embeddings.svg", "epochs/epoch-0001.svg"}
    assert files["ln · digits-upright · seed 0"].keys() == pictures
    report = files["report · digits"]
    assert report["index.html"] == (followed.folder / "report/index.html").read_bytes()
    assert {"tables/digits.csv", "figures/digits-curves.svg"} <= report.keys()
    assert not any("upright" in name for name in report)
    memory = runs["hbn · digits · seed 0"]["histories"]["system/process_memory_megabytes"]
    assert memory
    assert {step for step, _ in memory} <= {0, 1}


def test_a_moved_project_says_to_delete_the_store_and_then_restores_it(
    followed: Project, before: Fields, tmp_path: Path
) -> None:
    moved = Project.__new__(Project)
    moved.folder = Path(shutil.copytree(followed.folder, tmp_path / "moved", symlinks=True))
    message = moved.run("make", "track", status=2)
    assert "the project moved. Delete mlflow.db and run `make track`" in message
    (moved.folder / "mlflow.db").unlink()
    moved.run("make", "track")
    shutil.rmtree(moved.folder / "runs")
    assert stored(moved, tmp_path / "after.db") == before
