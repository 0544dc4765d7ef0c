"""The pipeline in a real DVC repository with a real MLflow store, on a shortened digits recipe."""

import json
import re
import shutil
from typing import Any

import numpy as np
import pytest
from conftest import SHORT, Project

from heated.common.history import read_history
from heated.config import FILES
from heated.reporting.run_results import HEADLINE_METRICS
from heated.training.recipe import Recipe

RUN = "runs/digits/hbn"
pytestmark = pytest.mark.xdist_group("built")


def load(project: Project, path: str) -> Any:
    return json.loads((project.folder / path).read_text(encoding="utf-8"))


def outdated(project: Project) -> list[str]:
    """Return the stages that are out of date."""
    return sorted(json.loads(project.run("dvc", "status", "--json")))


def test_everything_is_built_and_a_second_run_does_nothing(built):
    report = ("index.html", "table.md", "claims.json", "curves.csv", "tables/digits.tex")
    for path in (*(f"report/{name}" for name in report), "metrics/digits/hbn.json"):
        assert (built.folder / path).stat().st_size > 0
    output = built.run("dvc", "repro")
    assert "Running stage" not in output
    assert "Data and pipelines are up to date." in output
    again = built.run("make", "repro")
    assert "up to date" in again
    assert again.splitlines()[-1] == (
        f"The report is {built.folder}/report/index.html. `make ui` starts MLflow, to compare the "
        "runs."
    )
    model = built.folder / RUN / "models/seed-0.safetensors"
    content = model.read_bytes()
    model.write_bytes(content[:-1] + b"?")  # in place; the cache has a file of its own
    built.run("dvc", "repro")
    assert model.read_bytes() == content


def test_history_follows_the_schedules(built):
    settings = load(built, "data/resolved/runs/digits/hbn.json")["settings"]
    expected = Recipe.from_settings(settings)
    rows = read_history(built.folder / RUN / "history.csv")[0]
    assert [row["alpha"] for row in rows] == expected.alphas
    assert [row["lr"] for row in rows] == expected.lrs
    assert all(row["temperature"] == 1 / row["alpha"] for row in rows)


def test_dvc_shows_the_means_over_seeds_and_the_curves(built):
    path = "metrics/digits/hbn.json"
    means, metrics = load(built, path), load(built, f"{RUN}/metrics.json")
    assert means == {name: metrics[name]["mean"] for name in HEADLINE_METRICS}
    output = json.loads(built.run("dvc", "metrics", "show", "--json"))
    assert output[""]["data"][path]["data"] == means
    assert max(map(len, built.run("dvc", "metrics", "show").splitlines())) <= 100
    assert '"method": "hbn"' in built.run("dvc", "plots", "show", "--json")


# Of another size of images, `train` reads the new shape, too.
UPRIGHT = ["split-embeddings_2d@digits-upright", "train-embeddings_2d@digits-upright-ln"]
PACKED, AFTER = ["split@digits", "train@digits-hbn", *UPRIGHT], ["report", "track"]
EVALUATED = ["evaluate@digits-hbn", "evaluate-embeddings_2d@digits-upright-ln"]
EDITS = [  # with the only stages that an edit re-runs
    ("methods.bn-heat.alpha.end", 8, []),  # which this project does not train
    ("methods.hbn.alpha.end", 8, ["train@digits-hbn"]),
    ("run.seeds", [0, 1], ["train@digits-hbn", "report"]),
    ("claims.bn-over-sm.statement", "Batch norm wins", ["report"]),
    ("report.gallery_queries", 0, ["report"]),
    ("tracking.interval_s", 5, []),
    ("tracking.models", "logged", ["track"]),
    ("checkpoints.max_size_mib", 1, []),
    ("download.mirror", "../mirror", []),
    ("download.cache", "../downloads", []),
    ("datasets.digits.training.lr", 0.1, ["train@digits-hbn", "report", "track"]),
    # digits-upright inherits from digits
    ("datasets.digits.packing.size", 16, [*PACKED, *AFTER]),
    ("datasets.digits-upright.packing.size", 16, [*UPRIGHT, *AFTER]),
    ("datasets.digits.evaluation.recall_at", [1], [*EVALUATED, *AFTER]),
    ("studies.gradients.samples", 50, ["gradients@digits-hbn"]),
]


def test_an_edit_re_runs_only_the_stages_that_read_it(built, subtests):
    for path, value, stages in EDITS:
        with subtests.test(path=path):
            with built.edited({path: value}):
                built.stage("resolve")
                found = outdated(built)
            assert [name for name in found if name != "resolve"] == sorted(stages)
    built.stage("resolve")  # as other tests expect it


def test_every_claim_is_tested_on_every_data_set_and_a_changed_one_without_training(built):
    names = load(built, "data/resolved/report.json")["claims"]
    claims = load(built, "report/claims.json")
    assert [(claim["dataset"], claim["claim"]) for claim in claims] == [
        (dataset, name) for dataset in ("digits", "digits-upright") for name in names
    ]

    def statement() -> str:
        claims = load(built, "report/claims.json")
        (text,) = {c["statement"] for c in claims if c["claim"] == "bn-over-sm"}
        return str(text)

    with built.edited({"claims.bn-over-sm.statement": "Batch norm wins"}):
        ran = re.findall(r"Running stage '([^']*)'", built.run("dvc", "repro"))
        assert [name for name in ran if name != "resolve"] == ["report", "track"]
        assert statement() == "Batch norm wins"
    built.run("dvc", "repro")  # as other tests expect it
    assert statement() == "Batch norm beats plain softmax"


def test_a_further_seed_leaves_the_finished_seed_alone(built):
    before = (built.folder / RUN / "models/seed-0.safetensors").read_bytes()
    with built.edited({"run.seeds": [0, 1]}):
        built.run("dvc", "repro", "--quiet", "resolve")
        built.run("dvc", "repro", "--single-item", "train@digits-hbn")
        seeds = load(built, f"{RUN}/provenance.json")["seeds"]
    assert {seed: result["epochs_trained"] for seed, result in seeds.items()} == {"0": 0, "1": 2}
    assert (built.folder / RUN / "models/seed-0.safetensors").read_bytes() == before
    built.run("dvc", "repro", "--quiet", "train@digits-hbn")  # as other tests expect it


def test_another_packing_size_packs_again_and_the_former_is_restored_without_a_lock_file(project):
    """DVC's run cache leaves parameters named `size` out of its keys."""
    for size, ran in ((8, True), (16, True), (8, False), (16, False)):
        project.edit({"datasets.digits.packing.size": size})
        (project.folder / "dvc.lock").unlink(missing_ok=True)
        output = project.run("dvc", "repro", "split@digits")
        assert ("Running stage 'split@digits'" in output) == ran
        images = np.load(project.folder / "data/packed/digits/images.npy", mmap_mode="r")
        assert images.shape[1:] == (size, size, 1)


@pytest.mark.parametrize("file", FILES)
def test_bad_parameters_stop_every_command_without_a_traceback_and_create_nothing(project, file):
    path = project.folder / file
    for text in ("- 1\n", "run: [\n", "run: !!int x\n"):
        path.write_text(text, encoding="utf-8")
        for command in ("python -m stages.resolve", "dvc repro", "python -m stages 2"):
            process = project.run("bash", "-c", f"{command}; exit $(($? > 0))", status=1)
            assert file in process or "resolve" not in command  # DVC may not name it
            assert "Traceback" not in process
        assert not (project.folder / "data").exists()


def test_the_pipeline_runs_in_a_folder_of_any_name_below_another_repository(tmp_path):
    folder = tmp_path / "100% mine? #1/pro ject"
    folder.mkdir(parents=True)
    outer = Project(folder)
    shutil.rmtree(folder / ".git")
    outer.edit(SHORT)
    outer.run("git", "init", "--quiet", str(folder.parent))
    outer.run("python", "-m", "stages", "2", HEATED_TRACKING="off")
    assert "up to date" in outer.run("python", "-m", "stages", "2", HEATED_TRACKING="off")
    assert (folder / "report/index.html").exists()


def test_an_unknown_name_stops_the_pipeline_before_anything_runs(built):
    for command in ("dvc repro", "python -m stages 2"):
        with built.edited({"run.methods": ["hbm"]}):
            output = built.run(*command.split(), status=255)
        built.run("dvc", "repro", "--quiet", "resolve")  # DVC deletes a failed stage's outputs
        assert ": run.methods, entry 1: got 'hbm'" in output
        assert "Did you mean 'hbn'?" in output
        assert "Running stage 'train" not in output


# The stages that an edit in a folder re-runs, without those that depend on a changed output.
TRAINED = {"train", "train-embeddings_2d", "embed", "embed-embeddings_2d", "gradients", "track"}
RERUN = {
    "tracking": {"track"},
    "search": set(),
    "inference": {"track"},
    "reporting": {"report", "track"},
    "analysis": {"gradients", "report"},
    "evaluation": {"evaluate", "evaluate-embeddings_2d", "report"},
    "config": {"resolve"},
    "losses": {"resolve", *TRAINED},
    "models": TRAINED,
    "data": {*TRAINED, "report"},
    "runtime": {*TRAINED, "evaluate", "evaluate-embeddings_2d", "report"},
    "training": {"train", "train-embeddings_2d"},
    "datasets": {"download", "download-embeddings_2d", "split", "split-embeddings_2d"},
    "preprocessing": {"split", "split-embeddings_2d", "track"},
    "pipeline": set(),
}


def test_an_edit_of_code_re_runs_the_stages_whose_folders_it_is_in(built):
    package = built.folder / "src/heated"
    folders = {path.name for path in package.iterdir() if path.is_dir()} - {"__pycache__"}
    assert folders == {*RERUN, "common"}
    for folder, stages in RERUN.items():
        added = package / folder / "added.py"
        added.write_text("ADDED = True\n", encoding="utf-8")
        found = {name.partition("@")[0] for name in outdated(built)}
        added.unlink()
        assert found == stages, folder
    compiled = package / "losses/__pycache__/added.pyc"
    compiled.parent.mkdir(exist_ok=True)
    compiled.write_bytes(b"x")
    assert outdated(built) == []
