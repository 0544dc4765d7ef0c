"""The stages as commands, and dvc.yaml against what the stages really import."""

import ast
import re
import shutil
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, Project

from heated import config
from heated.common import paths
from heated.common.errors import InputError
from heated.common.io import write_json
from heated.config.resolved import resolved_files

SCRIPTS = ("__init__", "__main__", "fork_server")  # of the folder, and no stages
STAGES = sorted(p.stem for p in (ROOT / "stages").glob("*.py") if p.stem not in SCRIPTS)
DVC = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]


def imported(path: Path) -> set[Path]:
    """The project's files that a file imports, at its top or in a function, directly or not."""
    found: set[Path] = set()
    queue = [path]
    while queue:
        for module in modules(queue.pop()):
            for file in (ROOT / f"src/{module}.py", ROOT / f"src/{module}/__init__.py"):
                if file.exists() and file not in found:
                    found.add(file)
                    queue.append(file)
    return found


def modules(path: Path) -> set[str]:
    """Every module, as a path, that an import in the file may load, its packages included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    parts = [name.split(".") for name in names if name.split(".")[0] == "heated"]
    return {"/".join(part[:end]) for part in parts for end in range(1, len(part) + 1)}


# A side effect that changes no output.
EXEMPT = {"train": {"tracking"}}


def code_folders(stage: str) -> set[str]:
    """The folders of the package among a stage's dependencies."""
    deps = [dep for dep in DVC[stage]["deps"] if dep.startswith("src/")]
    assert all(re.fullmatch(r"src/heated/[a-z]+", dep) for dep in deps), deps
    return {dep.rpartition("/")[2] for dep in deps}


def test_folders_in_deps_are_those_that_the_stage_imports() -> None:
    package = ROOT / "src/heated"
    for stage in STAGES:
        files = imported(ROOT / f"stages/{stage}.py") - {package / "__init__.py"}
        folders = {file.relative_to(package).parts[0] for file in files}
        assert code_folders(stage) == folders - EXEMPT.get(stage, set()), stage
        assert f"stages/{stage}.py" in DVC[stage]["deps"]
        assert ("config" in folders) == (stage == "resolve"), stage  # it alone reads the YAML files
        assert not DVC[stage].get("params"), stage
    # indirect and late imports count:
    files = {str(f.relative_to(ROOT / "src/heated")) for f in imported(ROOT / "stages/track.py")}
    assert {"tracking/__init__.py", "tracking/store.py", "common/history.py"} <= files
    assert "training/loop.py" not in files


def test_every_stage_is_one_file_of_the_same_name() -> None:
    assert set(STAGES) <= set(DVC)
    for name in STAGES:
        launch = "${run.launch}" if name == "train" else "python -m"
        item = " ".join(f"${{item.{axis}}}" for axis in DVC[name].get("matrix", {}))
        assert DVC[name]["cmd"] == f"{launch} stages.{name} {item}".strip()


def test_a_studys_stage_is_the_stage_for_further_methods() -> None:
    for name in set(DVC) - set(STAGES):
        check_studys_stage(name)


def check_studys_stage(name: str) -> None:
    kind, _, study = name.partition("-")
    own, stage = DVC[name], DVC[kind]
    tuned = name == "train-competitors"
    assert own.keys() == stage.keys()
    assert {key for key in stage if own[key] != stage[key]} == {"matrix"} | (
        {"deps"} if tuned else set()
    )
    if tuned:
        path = "runs/${item.dataset}/${item.method}/tuned.json"
        assert own["deps"] == [path, *stage["deps"]]
        assert DVC["tune"]["outs"] == [path]
    expected = {
        "dataset": f"${{studies.{study}.datasets}}",
        "method": f"${{studies.{study}.methods}}",
    }
    assert own["matrix"].items() <= expected.items()
    assert own["matrix"].keys() == stage["matrix"].keys()


def test_every_study_that_trains_has_its_stages() -> None:
    studies = config.load(ROOT).studies.grids()
    made = {name for name in DVC if name.split("-")[0] in ("train", "embed", "evaluate")}
    kinds = ("train", "embed", "evaluate")
    assert made == {*kinds, *(f"{kind}-{study}" for kind in kinds for study in studies)}


def test_stages_and_the_files_that_people_edit_are_short() -> None:
    limits = {"params.yaml": 150, "dvc.yaml": 300, "datasets.yaml": 150, "studies.yaml": 200}
    for name, limit in (limits | {f"stages/{stage}.py": 45 for stage in STAGES}).items():
        assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) <= limit, name


def test_paths_in_the_code_are_those_of_dvc_yaml() -> None:
    item = {"dataset": "${item.dataset}", "method": "${item.method}"}
    run, dataset = paths.run_folder(**item), item["dataset"]
    outs = {
        "resolve": [paths.RESOLVED],
        "download": [paths.raw_folder(dataset)],
        "split": [paths.packed_folder(dataset)],
        "train": [run / "models", run / "history.csv", run / "provenance.json"],
        "tune": [run / "tuned.json"],
        "embed": [run / "embeddings"],
        "evaluate": [run / "metrics.json"],
        "gradients": [run / "gradients.json"],
        "report": [Path("report")],
        "track": [Path("data/tracked.json")],
    }
    assert outs.keys() == set(STAGES)
    for stage, expected in outs.items():
        listed = [out if isinstance(out, str) else next(iter(out)) for out in DVC[stage]["outs"]]
        assert listed == [str(path) for path in expected], stage


def test_every_resolved_file_has_a_stage_that_depends_on_it() -> None:
    files = resolved_files(config.load(ROOT))
    listed = {dep for stage in DVC.values() for dep in stage["deps"]}
    patterns = [
        re.escape(re.sub(r"\$\{item\.\w+\}", "*", dep)).replace(r"\*", "[^/]+") for dep in listed
    ]
    for name in files.keys() - {paths.SIDE_SETTINGS}:
        assert any(re.fullmatch(each, f"{paths.RESOLVED}/{name}") for each in patterns), name


def test_a_run_that_nothing_trains_is_named_with_where_to_add_it(tmp_path, monkeypatch) -> None:
    for name, value in resolved_files(config.load(ROOT)).items():
        write_json(tmp_path / "data/resolved" / name, value)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"runs/digits: got 'bn-4', expected one of bn, bn-drop, "):
        paths.resolved("runs/digits/bn-4.json")
    with pytest.raises(
        InputError, match="evaluation: got 'sop', expected one of digits, digits-up"
    ):
        paths.resolved("evaluation/sop.json")
    with pytest.raises(InputError, match="tuning/digits: got 'triplet', expected one of nothing"):
        paths.resolved("tuning/digits/triplet.json")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of the project, which these tests share."""
    return Project(tmp_path_factory.mktemp("project"))


@pytest.mark.slow
def test_a_stage_without_its_input_names_the_file_and_the_stage_that_makes_it(
    project: Project,
) -> None:
    cases = (
        ("split", ("digits",), "raw", "download"),
        ("train", ("digits", "bn"), "index.npz", "split"),
        ("embed", ("digits", "bn"), "index.npz", "split"),
        ("gradients", ("digits", "hbn"), "index.npz", "split"),
        ("evaluate", ("digits", "bn"), "embeddings", "embed"),
        ("report", (), "metrics.json", "evaluate"),
        ("track", (), "metrics.json", "evaluate"),
    )
    shutil.rmtree(project.folder / "data", ignore_errors=True)
    for stage, arguments, *_ in cases:
        assert "the stage 'resolve' makes it" in project.stage(stage, *arguments, status=1)
    project.stage("resolve")
    for stage, arguments, missing, maker in cases:
        message = project.stage(stage, *arguments, status=1)
        assert missing in message
        assert f"the stage '{maker}' makes it" in message
        assert "Traceback" not in message


def test_a_wrong_number_of_arguments_prints_the_usage(project: Project) -> None:
    message = project.stage("split", "digits", "bn", status=2)
    assert message.startswith("usage: python -m stages.split [-h] DATASET\n")


def test_bad_params_stop_before_torch_is_loaded(project: Project) -> None:
    shutil.rmtree(project.folder / "data", ignore_errors=True)
    name = "datasets.digits.training.backbone.name"
    with project.edited({"run.seeds": [-1], name: "conv5"}):
        message = project.run("python", "-X", "importtime", "-m", "stages.resolve", status=1)
    assert "run.seeds.0: got -1" in message
    assert "Did you mean 'conv4'" in message
    assert " torch\n" not in message
    assert not (project.folder / "data").exists()


def test_an_entry_is_shown_with_where_each_value_comes_from(project: Project) -> None:
    told = project.stage("resolve", "--show", "methods.hbn")
    lines = dict(line.split("  #", 1) for line in told.splitlines())
    found = {key.strip(): origin.strip() for key, origin in lines.items()}
    assert found["alpha.start: 16"] == "hbn"
    assert found["normalise.name: batch"] == "bn"
    assert found["label_smoothing: 0.0"] == "sm"
    told = project.stage("resolve", "--show", "methods.hbm", status=1)
    assert "got 'methods.hbm'" in told
    assert "Did you mean 'methods.hbn'?" in told
