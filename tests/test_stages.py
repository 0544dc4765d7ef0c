"""The stages as commands, and dvc.yaml against what the stages really import."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, Project

from heated import config
from heated.common import io
from heated.common.errors import InputError
from heated.common.io import write_json
from heated.config.resolved import resolved_files

# Files of the folder that are not stages.
SCRIPTS = ("__init__", "__main__")
STAGES = sorted(p.stem for p in (ROOT / "stages").glob("*.py") if p.stem not in SCRIPTS)
DVC = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
TUNED = config.load_params(ROOT).studies.tuned()


def imported_names(path: Path) -> set[str]:
    """Return the modules, and names in modules, that a file imports at its top or later."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.module is not None, f"{path}: relative import"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


def imported_files(path: Path) -> set[Path]:
    """Return the package's files that a file imports, directly or not, with their packages."""
    found: set[Path] = set()
    queue = [path]
    while queue:
        parts = [name.split(".") for name in imported_names(queue.pop())]
        bases = {ROOT.joinpath("src", *p[:end]) for p in parts for end in range(1, len(p) + 1)}
        files = {path for each in bases for path in (each.with_suffix(".py"), each / "__init__.py")}
        queue += (new := {file for file in files if file.exists()} - found)
        found |= new
    return found


EXEMPT = {"train": {"tracking"}}  # a side effect that changes no output


def test_folders_in_deps_are_those_that_the_stage_imports():
    package = ROOT / "src/heated"
    for stage in STAGES:
        files = imported_files(ROOT / f"stages/{stage}.py") - {package / "__init__.py"}
        folders = {file.relative_to(package).parts[0] for file in files}
        expected = folders - EXEMPT.get(stage, set())
        deps = {dep for dep in DVC[stage]["deps"] if dep.startswith("src/")}
        assert deps == {f"src/heated/{folder}" for folder in expected}, stage
        assert f"stages/{stage}.py" in DVC[stage]["deps"]
        assert ("config" in folders) == (stage == "resolve"), stage  # only it reads the YAML files
        assert not DVC[stage].get("params"), stage
    files = {str(file.relative_to(package)) for file in imported_files(ROOT / "stages/track.py")}
    late, indirect = "tracking/pyfunc_model.py", "common/errors.py"
    assert {"tracking/__init__.py", late, indirect} <= files
    assert "training/loop.py" not in files


def test_a_stage_is_one_file_of_its_name_and_a_studys_stage_the_same_for_further_methods():
    assert set(STAGES) <= set(DVC)
    for name, stage in DVC.items():
        kind, _, study = name.partition("-")
        axes = stage.get("matrix", {})
        launch = "${run.launcher}" if kind == "train" else "python -m"
        item = " ".join(f"${{item.{axis}}}" for axis in axes)
        assert stage["cmd"] == f"{launch} stages.{kind} {item}".strip()
        if study:
            tuned = {"deps"} if kind == "train" and study in TUNED else set()
            assert {key for key in stage if stage[key] != DVC[kind][key]} == {"matrix"} | tuned
            assert axes == {axis: f"${{studies.{study}.{axis}s}}" for axis in DVC[kind]["matrix"]}
    (path,) = DVC["tune"]["outs"]
    assert path == "runs/${item.dataset}/${item.method}/tuned.json"
    for study in TUNED:
        assert DVC[f"train-{study}"]["deps"] == [path, *DVC["train"]["deps"]]


def test_every_study_that_trains_has_its_stages():
    studies = config.load_params(ROOT).studies.grids()
    kinds = ("train", "embed", "evaluate")
    names = {name for name in DVC if name.split("-")[0] in kinds}
    assert names == {*kinds, *(f"{kind}-{study}" for kind in kinds for study in studies)}


def test_stages_and_the_files_that_people_edit_are_short():
    limits = {"params.yaml": 150, "dvc.yaml": 300, "datasets.yaml": 150, "studies.yaml": 225}
    for name, limit in (limits | {f"stages/{stage}.py": 40 for stage in STAGES}).items():
        assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) <= limit, name


def test_paths_in_the_code_are_those_of_dvc_yaml():
    dataset = "${item.dataset}"
    run = io.run_folder(dataset, "${item.method}")
    outs = {
        "resolve": [io.RESOLVED],
        "download": [io.raw_folder(dataset)],
        "split": [io.packed_folder(dataset)],
        "train": [run / "models", run / "history.csv", run / "provenance.json"],
        "tune": [run / "tuned.json"],
        "embed": [run / "embeddings"],
        "evaluate": [run / "metrics.json", run / "class_scores.csv"],
        "gradients": [run / "gradients.json"],
        "report": [Path("report")],
        "track": [Path("data/tracked.json")],
    }
    assert outs.keys() == set(STAGES)
    for stage, expected in outs.items():
        listed = [out if isinstance(out, str) else next(iter(out)) for out in DVC[stage]["outs"]]
        assert listed == [str(path) for path in expected], stage


def test_every_resolved_file_has_a_stage_that_depends_on_it():
    files = resolved_files(config.load_params(ROOT))
    listed = {re.escape(dep) for stage in DVC.values() for dep in stage["deps"]}
    patterns = [re.sub(r"\\\$\\{item\\\.\w+\\}", "[^/]+", dep) for dep in listed]
    for name in files.keys() - {io.SIDE_SETTINGS}:
        assert any(re.fullmatch(each, f"{io.RESOLVED}/{name}") for each in patterns), name


def test_an_unknown_run_is_an_error_that_says_where_to_add_it(tmp_path, monkeypatch):
    for name, value in resolved_files(config.load_params(ROOT)).items():
        write_json(tmp_path / "data/resolved" / name, value)
    monkeypatch.chdir(tmp_path)
    for name, message in {
        "runs/digits/bn-4": "runs/digits: got 'bn-4', expected one of bn, bn-drop, ",
        "evaluation/sop": "evaluation: got 'sop', expected one of digits, digits-up",
        "tuning/digits/triplet": "tuning/digits: got 'triplet', expected one of nothing",
    }.items():
        with pytest.raises(InputError, match=message):
            io.load_settings(f"{name}.json")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of the project, which these tests share."""
    return Project(tmp_path_factory.mktemp("project"))


@pytest.mark.slow
def test_a_stage_without_its_input_names_the_file_and_the_stage_that_makes_it(project):
    cases = {
        "split digits": ("raw", "download"),
        "train digits bn": ("index.npz", "split"),
        "embed digits bn": ("index.npz", "split"),
        "gradients digits hbn": ("index.npz", "split"),
        "evaluate digits bn": ("embeddings", "embed"),
        "report": ("metrics.json", "evaluate"),
        "track": ("metrics.json", "evaluate"),
    }
    shutil.rmtree(project.folder / "data", ignore_errors=True)
    for stage in cases:
        assert "the stage 'resolve' makes it" in project.stage(*stage.split(), status=1)
    project.stage("resolve")
    for stage, (missing, maker) in cases.items():
        message = project.stage(*stage.split(), status=1)
        assert missing in message
        assert f"the stage '{maker}' makes it" in message
        assert "Traceback" not in message


def test_a_wrong_number_of_arguments_prints_the_usage(project):
    message = project.stage("split", "digits", "bn", status=2)
    assert message.startswith("usage: python -m stages.split [-h] DATASET\n")


def test_an_entry_is_printed_with_the_origin_of_each_value(project):
    output = project.stage("resolve", "--show", "methods.hbn")
    lines = dict(line.split("  #", 1) for line in output.splitlines())
    origins = {value.strip(): origin.strip() for value, origin in lines.items()}
    assert origins["alpha.start: 16"] == "hbn"
    assert origins["normalize.name: batch"] == "bn"
    assert origins["label_smoothing: 0.0"] == "sm"
    output = project.stage("resolve", "--show", "methods.hbm", status=1)
    assert "got 'methods.hbm'" in output
    assert "Did you mean 'methods.hbn'?" in output


@pytest.mark.xdist_group("together")
@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="one process runs all tests")
def test_tests_of_one_group_share_a_process_and_its_fixtures(request):
    assert request.node.nodeid.endswith("@together")  # by which pytest-xdist knows the group


HEAVY = {
    *("dvc", "matplotlib", "mlflow", "pandas", "pytorch_metric_learning", "sklearn", "torch"),
    "torchvision",
}
IMPORTS = """
import sys
from importlib import import_module
for stages, allowed in (
    (("resolve", "download", "split"), set()),
    (("track",), {"matplotlib"}),
    (("tune", "train", "embed", "evaluate", "gradients", "report"), {"matplotlib", "torch"}),
):
    for stage in stages:
        import_module(f"stages.{stage}")
        assert HEAVY & {*sys.modules} <= allowed, (stage, HEAVY & {*sys.modules})
"""


@pytest.mark.slow
def test_a_stage_imports_no_heavy_package_before_it_needs_it():
    code = IMPORTS.replace("HEAVY", repr(HEAVY))
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
