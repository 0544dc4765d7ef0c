"""What MLflow shows is had again from the files that DVC tracks; what is there is not doubled."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import tracked
from conftest import Project

pytestmark = [
    pytest.mark.mlflow,
    pytest.mark.filterwarnings(tracked.MLFLOWS),
    pytest.mark.xdist_group("built"),
]
EXPERIMENTS = ("digits", "digits-upright")


def shown(project: Project, copy: Path) -> dict[str, list[dict[str, Any]]]:
    """All that MLflow has of each experiment; of a copy, since a client keeps its file open."""
    shutil.copy(project.folder / "mlflow.db", copy)
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{copy}")
    notes = {name: client.get_experiment_by_name(name).tags for name in EXPERIMENTS}
    return {name: [notes[name], *tracked.all_of(client, name)] for name in EXPERIMENTS}


def forget(project: Project) -> None:
    """A project whose results are there, and whose store is not."""
    (project.folder / "mlflow.db").unlink()
    shutil.rmtree(project.folder / "mlartifacts")


@pytest.fixture(scope="module")
def followed(built: Project) -> Project:
    """The project with a store that followed the training, epoch by epoch."""
    forget(built)
    shutil.rmtree(built.folder / "checkpoints")
    with built.edited({"tracking.every": 0.001}):
        built.run("dvc", "repro", "--force", "--single-item", "train@digits-hbn")
    built.run("dvc", "repro")
    return built


def test_a_deleted_store_is_written_again_with_every_field(
    followed: Project, tmp_path: Path
) -> None:
    before = shown(followed, tmp_path / "before.db")
    forget(followed)
    followed.run("make", "track")
    after = shown(followed, tmp_path / "after.db")
    for name in EXPERIMENTS:
        for one, other in zip(before[name], after[name], strict=True):
            assert one == other
    assert [run["name"] for run in after["digits"][1:]] == [
        "hbn · digits",
        "hbn · digits · seed 0",
        "report · digits",
    ]


def test_to_track_again_adds_nothing(followed: Project, tmp_path: Path) -> None:
    before = shown(followed, tmp_path / "before.db")
    followed.run("make", "track")
    assert shown(followed, tmp_path / "after.db") == before


def test_runs_have_the_report_their_curves_and_a_picture_of_two_dimensions(
    followed: Project, tmp_path: Path
) -> None:
    found = shown(followed, tmp_path / "store.db")
    files = {run["name"]: run["artifacts"] for runs in found.values() for run in runs[1:]}
    left = {"curves.svg", "history.csv", "metrics.json", "provenance.json"}
    assert files["hbn · digits"].keys() == left
    assert files["hbn · digits · seed 0"] == {}
    assert files["ln · digits-upright · seed 0"].keys() == {
        "embeddings.svg",
        "epochs/epoch-0001.svg",
    }
    report = files["report · digits"]
    assert report["index.html"] == (followed.folder / "report/index.html").read_bytes()
    assert {"tables/digits.csv", "figures/digits-curves.svg"} <= report.keys()
    assert not any("upright" in name for name in report)


def test_what_training_took_of_the_machine_is_there(followed: Project, tmp_path: Path) -> None:
    (run,) = [
        run
        for run in shown(followed, tmp_path / "store.db")["digits"][1:]
        if run["name"] == "hbn · digits · seed 0"
    ]
    steps = [step for step, _ in run["histories"]["system/process_memory_megabytes"]]
    assert steps
    assert set(steps) <= {0, 1}


def test_a_moved_project_says_to_delete_the_store_and_then_has_all_of_it(
    followed: Project, tmp_path: Path
) -> None:
    before = shown(followed, tmp_path / "before.db")
    moved = Project.__new__(Project)
    moved.folder = Path(shutil.copytree(followed.folder, tmp_path / "moved", symlinks=True))
    told = moved.run("make", "track", status=2)
    assert "the project moved. Delete mlflow.db and run `make track`" in told
    (moved.folder / "mlflow.db").unlink()
    moved.run("make", "track")
    shutil.rmtree(moved.folder / "runs")
    assert shown(moved, tmp_path / "after.db") == before
