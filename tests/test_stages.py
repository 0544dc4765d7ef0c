"""The stages as commands, and dvc.yaml against what the stages really import."""

import ast
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, Project

from heated import config

STAGES = sorted(
    path.stem for path in (ROOT / "stages").glob("*.py") if not path.stem.startswith("__")
)
DVC = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
TEMPLATES = {str(path.relative_to(ROOT)) for path in (ROOT / "src").rglob("templates/*")}


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


@pytest.mark.parametrize("stage", STAGES)
def test_code_in_deps_equals_what_the_stage_imports(stage: str) -> None:
    files = {str(file.relative_to(ROOT)) for file in imported(ROOT / f"stages/{stage}.py")}
    files |= TEMPLATES if "src/heated/reporting/page.py" in files else set()
    files.add(f"stages/{stage}.py")
    listed = {dep for dep in DVC[stage]["deps"] if dep.startswith(("src/", "stages/"))}
    assert listed == files


def test_closure_follows_indirect_and_late_imports() -> None:
    files = {
        str(file.relative_to(ROOT / "src/heated")) for file in imported(ROOT / "stages/track.py")
    }
    assert {"tracking/__init__.py", "tracking/store.py", "history.py", "files.py"} <= files
    assert "training.py" not in files


def test_every_stage_is_one_file_of_the_same_name() -> None:
    assert set(STAGES) <= set(DVC)
    for name in STAGES:
        stage = DVC[name]
        launch = "${run.launch}" if name == "train" else "python -m"
        assert stage["cmd"].startswith(f"{launch} stages.{name} ")


@pytest.mark.parametrize("name", sorted(set(DVC) - set(STAGES)))
def test_a_studys_stage_is_the_stage_for_further_methods(name: str) -> None:
    kind, _, study = name.partition("-")
    own, stage = DVC[name], DVC[kind]
    differing = {key for key in stage if own[key] != stage[key]}
    assert own.keys() == stage.keys()
    expected_to = {"matrix", "params"} if kind == "train" else {"matrix"}
    tuned = name == "train-competitors"
    assert differing == expected_to | ({"cmd", "deps"} if tuned else set())
    if tuned:
        path = "runs/${item.dataset}/${item.method}/tuned.json"
        assert own["cmd"] == f"{stage['cmd']} {path}"
        assert [dep for dep in own["deps"] if dep != path] == stage["deps"]
        assert DVC["tune"]["outs"] == [path]
    expected = {
        "dataset": f"${{studies.{study}.datasets}}",
        "method": f"${{studies.{study}.methods}}",
    }
    assert own["matrix"].items() <= expected.items()
    assert own["matrix"].keys() == stage["matrix"].keys()
    renamed = [param.replace(f"studies.{study}.seeds", "run.seeds") for param in own["params"]]
    assert renamed == stage["params"]


def test_every_study_that_trains_has_its_stages() -> None:
    studies = config.load(ROOT / "params.yaml").studies.grids()
    made = {name for name in DVC if name.split("-")[0] in ("train", "embed", "evaluate")}
    kinds = ("train", "embed", "evaluate")
    assert made == {*kinds, *(f"{kind}-{study}" for kind in kinds for study in studies)}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_thin(stage: str) -> None:
    assert len((ROOT / f"stages/{stage}.py").read_text(encoding="utf-8").splitlines()) <= 40


@pytest.mark.parametrize("stage", STAGES)
def test_every_path_in_a_command_is_declared(stage: str) -> None:
    declared = [
        path if isinstance(path, str) else next(iter(path))
        for kind in ("deps", "outs", "metrics")
        for path in DVC[stage].get(kind, [])
    ]
    for word in DVC[stage]["cmd"].partition(f"stages.{stage} ")[2].split():
        assert word.startswith("${item.") or word in [*declared, "params.yaml"], word


@pytest.mark.parametrize(
    ("stage", "arguments", "missing", "maker"),
    [
        ("split", ("digits", "raw", "packed"), "raw", "download"),
        ("train", ("digits", "bn", "packed", "m", "h", "p"), "index.npz", "split"),
        ("tune", ("digits", "triplet", "packed", "t"), "index.npz", "split"),
        ("embed", ("packed", "models", "e"), "index.npz", "split"),
        ("gradients", ("packed", "models", "g.json"), "index.npz", "split"),
        ("evaluate", ("digits", "embeddings", "m.json"), "embeddings", "embed"),
        ("report", ("packed", "runs", "r", "m"), "metrics.json", "evaluate"),
        ("track", ("runs", "report", "t"), "metrics.json", "evaluate"),
    ],
)
def test_a_stage_without_its_input_names_the_file_and_the_stage_that_makes_it(
    project: Project, stage: str, arguments: tuple[str, ...], missing: str, maker: str
) -> None:
    told = project.stage(stage, *arguments, status=1)
    assert missing in told
    assert f"the stage '{maker}' makes it" in told
    assert "Traceback" not in told


def test_a_run_that_nothing_trains_is_told_with_where_to_name_it(project: Project) -> None:
    told = project.stage("train", "digits", "bn-4", "packed", "m", "h", "p", status=1)
    assert "came 'bn-4' on 'digits'; allowed: what run or a study trains on it (sm, ls," in told
    assert "Traceback" not in told


def test_a_wrong_number_of_arguments_tells_the_usage(project: Project) -> None:
    told = project.stage("split", "digits", status=2)
    assert told == "usage: python -m stages.split DATASET RAW PACKED\n"


def test_bad_params_stop_before_torch_is_loaded(project: Project) -> None:
    project.edit(("seeds: [0, 1, 2]", "seeds: []"), ("name: conv4", "name: conv5"))
    told = project.run(
        "python", "-X", "importtime", "-m", "stages.check", "params.yaml", "ok", status=1
    )
    assert "run.seeds: came []" in told
    assert "did you mean 'conv4'" in told
    assert " torch\n" not in told
    assert not (project.folder / "ok").exists()
