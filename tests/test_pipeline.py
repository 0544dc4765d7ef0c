"""The pipeline in a real DVC repository with a real MLflow store, on a shortened digits recipe."""

import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from conftest import Project

from heated import config
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
    assert "up to date" in built.run("python", "-m", "heated.parallel", "2")


def test_outputs_are_linked_to_the_cache(built: Project) -> None:
    model = built.folder / RUN / "models/seed-0.safetensors"
    assert model.stat().st_nlink > 1


def test_history_follows_the_schedules(built: Project) -> None:
    params = config.load(built.folder / "params.yaml")
    expected = Recipe.from_settings(params.settings("digits", "hbn"))
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


@pytest.mark.parametrize(
    ("method", "outdated"), [("bn-heat", ["check"]), ("hbn", ["check", "train@digits-hbn"])]
)
def test_a_changed_method_puts_only_its_own_training_out_of_date(
    built: Project, method: str, outdated: list[str]
) -> None:
    section = built.params().partition(f"\n  {method}:")[2]
    changed = section.replace("start: 16, end: 4", "start: 16, end: 8", 1)
    with built.edited((section, changed)):
        assert list(json.loads(built.run("dvc", "status", "--json"))) == outdated


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("says: Batch norm beats plain softmax", "says: Batch norm wins"),
        ("more: [bn], less: [sm], margin: 0", "more: [hbn], less: [sm], margin: 0.01"),
        ("gallery: 3 ", "gallery: 0 "),
    ],
)
def test_a_changed_claim_or_gallery_puts_the_report_out_of_date_alone(
    built: Project, old: str, new: str
) -> None:
    with built.edited((old, new)):
        assert list(json.loads(built.run("dvc", "status", "--json"))) == ["check", "report"]


def test_a_changed_claim_is_judged_anew_without_training(built: Project) -> None:
    def told() -> dict[str, str]:
        claims = json.loads((built.folder / "report/claims.json").read_text(encoding="utf-8"))
        return {one["claim"]: one["says"] for one in claims if one["dataset"] == "digits"}

    with built.edited(("says: Batch norm beats plain softmax", "says: Batch norm wins")):
        ran = re.findall(r"Running stage '([^']*)'", built.run("dvc", "repro"))
        assert ran == ["check", "report", "track"]
        assert told()["bn-over-sm"] == "Batch norm wins"
    built.run("dvc", "repro")  # as other tests expect it
    assert told()["bn-over-sm"] == "Batch norm beats plain softmax"


def test_every_claim_is_judged_on_every_data_set(built: Project) -> None:
    params = config.load(built.folder / "params.yaml")
    claims = json.loads((built.folder / "report/claims.json").read_text(encoding="utf-8"))
    assert [(one["dataset"], one["claim"]) for one in claims] == [
        (dataset, claim) for dataset in ("digits", "digits-upright") for claim in params.claims
    ]


def test_a_seed_more_leaves_the_finished_seed_alone(built: Project) -> None:
    before = (built.folder / RUN / "models/seed-0.safetensors").read_bytes()
    with built.edited(("seeds: [0]", "seeds: [0, 1]")):
        built.run("dvc", "repro", "--single-item", "train@digits-hbn")
        record = json.loads((built.folder / RUN / "provenance.json").read_text(encoding="utf-8"))
    trained = {seed: told["epochs_trained"] for seed, told in record["seeds"].items()}
    assert trained == {"0": 0, "1": 2}
    assert (built.folder / RUN / "models/seed-0.safetensors").read_bytes() == before
    built.run("dvc", "repro", "--single-item", "train@digits-hbn")  # as other tests expect it


def test_an_unknown_name_stops_the_pipeline_before_anything_runs(built: Project) -> None:
    with built.edited(("methods: [", "methods: [hbm, ")):
        told = built.run("dvc", "repro", status=255)
    assert "run.methods.0: came 'hbm'" in told
    assert "did you mean 'hbn'?" in told
    assert "Running stage 'train" not in told
