"""The stage `track` restores a deleted store from the files that DVC tracks, and adds nothing."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import tracked
from conftest import Project

from heated.tracking.client import NOTE_DIGEST_TAG, NOTE_TAG
from heated.tracking.saved_view import VIEW_DIGEST_TAG, VIEW_TAG

pytestmark = [
    pytest.mark.mlflow,
    pytest.mark.filterwarnings(tracked.MLFLOW_WARNING),
    pytest.mark.xdist_group("built"),
]
EXPERIMENTS = ("digits", "digits-upright")
Fields = dict[str, list[dict[str, Any]]]


def stored(project: Project, copy: Path) -> Fields:
    """Return tags and runs of each experiment, from a copy, since a client keeps its file open."""
    shutil.copy(project.folder / "mlflow.db", copy)
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{copy}")
    notes = {name: dict(client.get_experiment_by_name(name).tags) for name in EXPERIMENTS}
    for tags in notes.values():  # without times and ids
        del tags[VIEW_DIGEST_TAG], tags[NOTE_DIGEST_TAG]
        view = json.loads(tags[VIEW_TAG])
        tags[VIEW_TAG] = {key: view[key] for key in ("name", "state")}
        link = r"#/experiments/\d+/runs/\w+"
        tags[NOTE_TAG], links = re.subn(link, "#", tags[NOTE_TAG])
        assert links == 1
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


def test_a_deleted_store_is_restored_with_every_field_and_tracking_again_adds_nothing(
    followed, before, tmp_path
):
    delete_store(followed)
    for _ in range(2):
        followed.run("make", "track")
        assert stored(followed, tmp_path / "after.db") == before
    runs = before["digits"][1:]
    names = ["hbn · digits", "hbn · digits · seed 0", "report · digits"]
    assert [(run["name"], run["parent"]) for run in runs] == [
        *zip(names, [None, names[0], None], strict=True)
    ]
    path = followed.folder / "runs/digits/hbn/metrics.json"
    recall = json.loads(path.read_text(encoding="utf-8"))["recall_at_1"]["mean"]
    assert {run["metrics"]["final/recall_at_1"] for run in runs[:2]} == {recall}


def test_runs_have_the_report_their_curves_pictures_and_use_of_the_machine(followed, before):
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
    names = ("hbn · digits", "hbn · digits · seed 0")
    of_run, memory = (runs[n]["histories"]["system/process_memory_megabytes"] for n in names)
    assert memory == of_run  # of the only seed
    assert {step for step, _ in memory} <= {0, 1}
    assert memory
