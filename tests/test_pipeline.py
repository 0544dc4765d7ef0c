"""The pipeline in a real DVC repository with a real MLflow store, on a shortened digits recipe."""

import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from conftest import Project

from heated.common.history import read_history
from heated.training.recipe import Recipe

RUN = Path("runs/digits/hbn")


pytestmark = pytest.mark.xdist_group("built")


def test_everything_is_built_and_a_second_run_does_nothing(built: Project) -> None:
    report = ("index.html", "table.md", "claims.json", "curves.csv", "tables/digits.tex")
    for path in (*(f"report/{name}" for name in report), "metrics.json"):
        assert (built.folder / path).stat().st_size > 0
    told = built.run("dvc", "repro")
    assert "Running stage" not in told
    assert "Data and pipelines are up to date." in told
    assert "up to date" in built.run("python", "-m", "stages", "2")


def test_outputs_are_linked_to_the_cache(built: Project) -> None:
    model = built.folder / RUN / "models/seed-0.safetensors"
    assert model.stat().st_nlink > 1


def test_history_follows_the_schedules(built: Project) -> None:
    resolved = built.folder / "data/resolved/runs/digits/hbn.json"
    expected = Recipe.from_settings(json.loads(resolved.read_text(encoding="utf-8"))["settings"])
    rows = read_history(built.folder / RUN / "history.csv")[0]
    assert [row["alpha"] for row in rows] == expected.alphas
    assert [row["lr"] for row in rows] == expected.lrs
    assert all(row["temperature"] == 1 / row["alpha"] for row in rows)


def test_mlflow_has_one_parent_a_method_and_one_child_a_seed(built: Project) -> None:
    with closing(sqlite3.connect(built.folder / "mlflow.db")) as store:
        runs = "select name from runs where name like 'hbn · digits%'"
        names = [name for (name,) in store.execute(f"{runs} order by name")]
        parents = store.execute("select count(*) from tags where key = 'mlflow.parentRunId'")
        assert names == ["hbn · digits", "hbn · digits · seed 0"]
        reports = "select name from runs where name like 'report%' order by name"
        titles = [title for (title,) in store.execute(reports)]
        assert titles == ["report · digits", "report · digits-upright"]
        assert parents.fetchone() == (2,)  # with that of the study `planes`
        recall = store.execute(
            "select value from latest_metrics join runs using (run_uuid) "
            f"where key = 'final/recall_at_1' and name in ({runs})"
        )
        values = {value for (value,) in recall}
    metrics = json.loads((built.folder / RUN / "metrics.json").read_text(encoding="utf-8"))
    assert values == {metrics["recall_at_1"]["mean"]}


def test_summary_for_dvc_is_the_mean_of_the_seeds(built: Project) -> None:
    summary = json.loads((built.folder / "metrics.json").read_text(encoding="utf-8"))
    metrics = json.loads((built.folder / RUN / "metrics.json").read_text(encoding="utf-8"))
    for name, mean in summary["digits"]["hbn"].items():
        assert mean == metrics[name]["mean"]
    shown = json.loads(built.run("dvc", "metrics", "show", "--json"))
    assert shown[""]["data"]["metrics.json"]["data"] == summary


def test_dvc_draws_the_curves(built: Project) -> None:
    told = built.run("dvc", "plots", "show", "--json")
    assert '"method": "hbn"' in told


SPLIT, AFTER = ["split@digits", "split-planes@digits-upright"], ["report", "track"]
EVALUATED = ["evaluate@digits-hbn", "evaluate-planes@digits-upright-ln"]


EDITS = [  # what an edit re-runs alone
    ("methods.bn-heat.alpha.end", 8, []),  # which this project does not train
    ("methods.hbn.alpha.end", 8, ["train@digits-hbn"]),
    ("run.seeds", [0, 1], ["train@digits-hbn", "report"]),
    ("claims.bn-over-sm.says", "Batch norm wins", ["report"]),
    ("report.gallery", 0, ["report"]),
    ("tracking.every", 5, []),
    ("tracking.models", "logged", ["track"]),
    ("checkpoints.budget", 1, []),
    ("download.mirror", "../mirror", []),
    ("download.cache", "../downloads", []),
    ("datasets.digits.training.lr", 0.1, ["train@digits-hbn", "report", "track"]),
    # digits-upright inherits from digits
    ("datasets.digits.packing.size", 16, [*SPLIT, *AFTER]),
    ("datasets.digits-upright.packing.size", 16, ["split-planes@digits-upright", *AFTER]),
    ("datasets.digits.evaluation.recall_at", [1], [*EVALUATED, *AFTER]),
    ("studies.gradients.samples", 50, ["gradients@digits-hbn"]),
]


def test_an_edit_re_runs_what_reads_it_alone(built: Project, subtests: pytest.Subtests) -> None:
    for path, value, stages in EDITS:
        with subtests.test(path=path):
            with built.edited({path: value}):
                built.stage("resolve")
                status = json.loads(built.run("dvc", "status", "--json"))
            assert sorted(name for name in status if name != "resolve") == sorted(stages)
    built.stage("resolve")  # as other tests expect it


def test_a_changed_claim_is_judged_again_without_training(built: Project) -> None:
    def told() -> dict[str, str]:
        claims = json.loads((built.folder / "report/claims.json").read_text(encoding="utf-8"))
        return {one["claim"]: one["says"] for one in claims if one["dataset"] == "digits"}

    with built.edited({"claims.bn-over-sm.says": "Batch norm wins"}):
        ran = re.findall(r"Running stage '([^']*)'", built.run("dvc", "repro"))
        assert [name for name in ran if name != "resolve"] == ["report", "track"]
        assert told()["bn-over-sm"] == "Batch norm wins"
    built.run("dvc", "repro")  # as other tests expect it
    assert told()["bn-over-sm"] == "Batch norm beats plain softmax"


def test_every_claim_is_judged_on_every_data_set(built: Project) -> None:
    resolved = built.folder / "data/resolved/report.json"
    names = json.loads(resolved.read_text(encoding="utf-8"))["claims"]
    claims = json.loads((built.folder / "report/claims.json").read_text(encoding="utf-8"))
    assert [(one["dataset"], one["claim"]) for one in claims] == [
        (dataset, claim) for dataset in ("digits", "digits-upright") for claim in names
    ]


def test_a_seed_more_leaves_the_finished_seed_alone(built: Project) -> None:
    before = (built.folder / RUN / "models/seed-0.safetensors").read_bytes()
    with built.edited({"run.seeds": [0, 1]}):
        built.run("dvc", "repro", "--quiet", "resolve")
        built.run("dvc", "repro", "--single-item", "train@digits-hbn")
        record = json.loads((built.folder / RUN / "provenance.json").read_text(encoding="utf-8"))
    trained = {seed: told["epochs_trained"] for seed, told in record["seeds"].items()}
    assert trained == {"0": 0, "1": 2}
    assert (built.folder / RUN / "models/seed-0.safetensors").read_bytes() == before
    built.run("dvc", "repro", "--quiet", "train@digits-hbn")  # as other tests expect it


def test_an_unknown_name_stops_the_pipeline_before_anything_runs(built: Project) -> None:
    with built.edited({"run.methods": ["hbm"]}):
        told = built.run("dvc", "repro", status=255)
    built.run("dvc", "repro", "--quiet", "resolve")  # DVC deletes what a failed stage had made
    assert "params.yaml: run.methods.0: got 'hbm'" in told
    assert "Did you mean 'hbn'?" in told
    assert "Running stage 'train" not in told


# What an edit in a folder of the package re-runs, besides what depends on a changed output.
TRAINED = {"train", "train-planes", "embed", "embed-planes", "gradients", "track"}
RERUN = {
    "tracking": {"track"},
    "search": set(),
    "inference": {"track"},
    "reporting": {"report", "track"},
    "analysis": {"gradients", "report"},
    "evaluation": {"evaluate", "evaluate-planes", "report"},
    "config": {"resolve"},
    "losses": {"resolve", *TRAINED},
    "models": TRAINED,
    "data": {*TRAINED, "report"},
    "runtime": {*TRAINED, "evaluate", "evaluate-planes", "report"},
    "training": {"train", "train-planes"},
    "datasets": {"download", "download-planes", "split", "split-planes"},
    "preprocessing": {"split", "split-planes", "track"},
}


def test_an_edit_of_code_re_runs_the_stages_whose_folders_it_is_in(built: Project) -> None:
    package = built.folder / "src/heated"
    folders = {path.name for path in package.iterdir() if path.is_dir()} - {"__pycache__"}
    assert folders == {*RERUN, "common"}
    for folder, stages in RERUN.items():
        added = package / folder / "added.py"
        added.write_text("ADDED = True\n", encoding="utf-8")
        status = json.loads(built.run("dvc", "status", "--json"))
        added.unlink()
        assert {name.partition("@")[0] for name in status} == stages, folder
    assert json.loads(built.run("dvc", "status", "--json")) == {}


def test_compiled_code_re_runs_nothing(built: Project) -> None:
    compiled = built.folder / "src/heated/losses/__pycache__/added.pyc"
    compiled.parent.mkdir(exist_ok=True)
    compiled.write_bytes(b"x")
    assert json.loads(built.run("dvc", "status", "--json")) == {}
