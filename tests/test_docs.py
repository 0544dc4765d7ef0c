"""README and docs/: every command, code block, link and number."""

import json
import os
import re
import runpy
import sqlite3
import subprocess
import sys
import tomllib
import urllib.request
from base64 import b64encode
from collections.abc import Callable
from contextlib import closing
from importlib.metadata import version
from io import BytesIO
from typing import Any

import pytest
import torch
import yaml
from conftest import ROOT, SHORT, Project
from PIL import Image
from server_process import Server
from test_experiments import COMMANDS as EXPERIMENTS

import heated
from heated.config import Params

pytestmark = pytest.mark.xdist_group("built")
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = [path for path in PAGES if path.name != "log.md"]  # history
TEXTS = {path.name: path.read_text(encoding="utf-8") for path in PAGES}
NOT_TESTED = re.compile(r"# needs (a GPU|a download|a server|your data|the package pre-commit)")


def blocks(language: str, text: str) -> list[str]:
    """Return the code blocks of a language."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [block for name, block in found if name == language]


COMMANDS = {
    line.split("#")[0].strip()
    for text in TEXTS.values()
    for block in blocks("sh", text)
    for line in block.splitlines()
    if line and not NOT_TESTED.search(line)
}


def runs(project: Project, command: str) -> None:
    project.run("bash", "-c", command)


DRY_RUNS = {  # commands that make starts: they take long, and other tests run them
    "bench": "python benchmarks/run.py",
    "docs": "mkdocs build --strict",
    "format": "ruff format",
    "debug": "python -m heated.pipeline.debug_build",  # tests/test_new_dataset.py runs both
    "new NAME=my-images IMAGES=../my-images": (
        'python -m heated.pipeline.new_dataset "my-images" "../my-images"'
    ),
    "lint": "lint-imports",
    "results": "python -m heated.reporting.release",
    "test-all": "pytest --numprocesses auto",
    "ui": "python -m heated.tracking",
}


def would_run(project: Project, command: str) -> None:
    printed = project.run("bash", "-c", f"{command} --dry-run")
    assert DRY_RUNS[command.removeprefix("make ")] in printed


def lists_targets(project: Project, command: str) -> None:
    makefile = (project.folder / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^([a-z-]+):", makefile, re.MULTILINE)
    listed = project.run("bash", "-c", command).splitlines()
    assert [line.split()[0] for line in listed] == targets
    assert all(len(line.split()) > 2 for line in listed)  # each with a description


def creates_a_venv(project: Project, command: str) -> None:
    project.run("bash", "-c", f"{command.replace('.venv', 'other-venv')} && python --version")


def is_pinned(project: Project, command: str) -> None:
    """Compare installed versions with a requirements file; installing it again takes minutes."""
    lines = (project.folder / command.split()[-1]).read_text(encoding="utf-8").splitlines()
    pins = [line.split("#")[0].split(";") for line in lines if "==" in line]
    unconditional = [pin[0].strip() for pin in pins if len(pin) == 1]
    assert len(unconditional) > 10
    for name, _, pinned in (pin.partition("==") for pin in unconditional):
        assert version(name) == pinned


def names_an_extra(project: Project, command: str) -> None:
    """Look the extra up; tests/test_wheel.py tries the requirements."""
    text = (project.folder / "pyproject.toml").read_text(encoding="utf-8")
    known = tomllib.loads(text)["project"]["optional-dependencies"]
    assert set(re.findall(r"\[(\w+)\]", command)) <= set(known)


def adds_no_run(project: Project, command: str) -> None:
    def count() -> int:
        with closing(sqlite3.connect(project.folder / "mlflow.db")) as store:
            number: int = store.execute("select count(*) from runs").fetchone()[0]
            return number

    before = count()
    runs(project, command)
    assert count() == before > 0


def runs_tests(project: Project, command: str) -> None:
    few = "src/heated/training/schedules.py"
    assert "passed" in project.run("bash", "-c", command, PYTEST_ADDOPTS=few)


def serves_mlflow(project: Project, command: str) -> None:
    with serve(project, command, "/") as server:
        assert MLFLOW_TITLE in fetch(server.address)


def keeps_metrics(project: Project, command: str) -> None:
    path = project.folder / "runs" / "digits" / "hbn" / "metrics.json"
    before = path.read_bytes()
    runs(project, command)
    assert path.read_bytes() == before


SERVER = (
    "mlflow server --backend-store-uri sqlite:///shared.db --artifacts-destination shared-artifacts"
)
TO_SERVER = "MLFLOW_TRACKING_URI=http://127.0.0.1:5000 make track"
MLFLOW_TITLE = "<title>MLflow</title>"
MODEL = "runs/digits/hbn/models/seed-0.safetensors"
INDEX = f"python -m heated.search index my-images --model {MODEL} --out my-index"
QUERY = "python -m heated.search query my-images/0.png --index my-index --top 10 --page result.html"


def serve(project: Project, command: str, path: str) -> Server:
    """Return a server that a user's command starts; it is up when it answers at a path."""
    return Server(command.split(), path, project.folder, project.environment())


def fetch(url: str, data: bytes | None = None) -> str:
    """Return a page, or the answer to JSON."""
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as reply:
        text: str = reply.read().decode()
        return text


def fills_a_server(project: Project, command: str) -> None:
    with serve(project, SERVER, "/") as server:
        assert MLFLOW_TITLE in fetch(server.address)
        for _ in range(2):
            runs(project, command.replace("http://127.0.0.1:5000", server.address))
    with closing(sqlite3.connect(project.folder / "shared.db")) as store:
        names = [name for (name,) in store.execute("select name from runs order by name")]
    assert names[:2] == ["hbn · digits", "hbn · digits · seed 0"]
    assert len(names) == len(set(names))
    artifacts = {path.name for path in (project.folder / "shared-artifacts").rglob("*")}
    assert {"index.html", "curves.svg", "embeddings.svg"} <= artifacts


def serves_a_model(project: Project, command: str) -> None:
    with project.edited({"tracking.models": "registered"}):
        project.run("make", "track")
    project.run("make", "track")  # other tests expect the state without models
    file = BytesIO()
    Image.new("L", (9, 11)).save(file, "png")
    inputs = json.dumps({"inputs": [b64encode(file.getvalue()).decode()]}).encode()
    with serve(project, command, "/ping") as server:
        (embedding,) = json.loads(fetch(f"{server.address}/invocations", inputs))["predictions"]
    assert sum(value**2 for value in embedding) == pytest.approx(1, abs=1e-5)


def exports(project: Project, command: str) -> None:
    runs(project, command)
    assert (project.folder / "hbn.onnx").stat().st_size > 1000


def indexes_images(project: Project, command: str) -> None:
    folder = project.folder / "my-images"
    folder.mkdir(exist_ok=True)
    for number in range(3):
        Image.new("L", (20, 10 + number), 80 * number).save(folder / f"{number}.png")
    assert "3 images" in project.run("bash", "-c", command)


def links_its_cache(project: Project, command: str) -> None:
    project.run(*command.split())
    assert project.run("dvc", "config", "cache.type").strip() == "hardlink,symlink"
    project.run("dvc", "config", "--local", "--unset", "cache.type")  # as other tests expect it


def finds_images(project: Project, command: str) -> None:
    if not (project.folder / "my-index").exists():
        indexes_images(project, INDEX)
    first, *_ = project.run("bash", "-c", command).splitlines()
    assert first.split("\t")[:2] == ["1", "0.0000"]
    assert (project.folder / "result.html").stat().st_size > 0


HOW: dict[str, Callable[[Project, str], None]] = {
    **dict.fromkeys(
        (
            *("make repro", "make repro JOBS=1", "dvc repro", "python -m stages 2", "make preview"),
            *("make judge", "make dag", "dvc metrics show", "dvc plots show"),
            "python -m heated.runtime.environment",
            "python -m heated.pipeline.cluster --help",
            "python -m stages.resolve --show methods.hbn",
        ),
        runs,
    ),
    **dict.fromkeys((f"make {target}" for target in DRY_RUNS), would_run),
    **dict.fromkeys(("pytest", "make test"), runs_tests),
    "make help": lists_targets,
    "python3 -m venv .venv && . .venv/bin/activate": creates_a_venv,
    "pip install -r requirements.txt": is_pinned,
    "pip install -e .": names_an_extra,
    "pip install -e '.[pipeline]'": names_an_extra,
    "pip install -r requirements-dev.txt": is_pinned,
    "python -m heated.tracking": serves_mlflow,
    "make track": adds_no_run,
    "dvc config --local cache.type hardlink,symlink": links_its_cache,
    "torchrun --nproc-per-node=2 -m stages.evaluate digits hbn": keeps_metrics,
    TO_SERVER: fills_a_server,
    f"python -m heated.inference.onnx {MODEL} hbn.onnx": exports,
    "mlflow models serve --model-uri models:/heated-digits@champion --env-manager local": (
        serves_a_model
    ),
    INDEX: indexes_images,
    QUERY: finds_images,
}


def test_every_command_is_tested():
    # the test of TO_SERVER starts SERVER; tests/test_experiments.py runs its own commands
    assert {*HOW, SERVER} | EXPERIMENTS == COMMANDS


@pytest.mark.parametrize("command", HOW)
def test_a_command_works(built, command):
    HOW[command](built, command)


def test_the_edited_schedule_re_runs_the_stages_that_readme_lists(project, make_venv):
    (diff,) = blocks("diff", README)
    method = diff.split(":")[1].strip()
    lines = [line for line in diff.splitlines() if not line.startswith("@@")]
    assert 1 <= sum(line[0] in "-+" for line in lines) <= 3
    before, after = (
        "\n".join(line[1:] for line in lines if line[0] in f" {sign}") for sign in "-+"
    )
    (project.folder / ".venv").symlink_to(make_venv)
    # with 3 epochs, the middle one of a cosine differs from a step
    methods = {"run.methods": ["hbn", method], "studies.embeddings_2d.datasets": []}
    project.edit(SHORT | methods | {"datasets.digits.training.epochs": 3})
    project.run("make", "repro")
    path = project.folder / "params.yaml"
    text = path.read_text(encoding="utf-8")
    start = text.index(f"\n  {method}:")
    edited = text[:start] + text[start:].replace(before, after, 1)
    assert edited != text
    path.write_text(edited, encoding="utf-8")
    printed = project.run("make", "repro", "JOBS=1")
    ran = re.findall(rf"Running stage '([a-z]+)(?:@digits-{method})?'", printed)
    assert len(ran) == printed.count("Running stage")  # no stage of another run
    (listed,) = re.findall(r"`make repro` then runs (.*?)\.", README, re.DOTALL)
    assert set(ran) == set(re.findall(r"`([a-z]+)`", listed))


def test_the_loop_in_readme_trains():
    torch.manual_seed(0)
    scope: dict[str, Any] = {}
    (code,) = blocks("python", README)
    exec(compile(code, "README.md", "exec"), scope)
    head, network = scope["head"], scope["network"]
    predicted = head.logits(network(scope["images"])).argmax(dim=1)
    assert (predicted == scope["labels"]).float().mean() > 0.9
    assert head.alpha == 4
    assert scope["embeddings"].shape == (100, 64)


def test_the_python_code_of_the_pages_runs(built):
    others = {"README.md", "library.md"}  # the test above, and tests/test_library.py
    codes = [
        code for n, text in TEXTS.items() if n not in others for code in blocks("python", text)
    ]
    assert codes
    for code in codes:
        built.run(sys.executable, "-c", code)


def test_every_yaml_block_is_valid():
    known = {"alpha", *Params.model_fields}
    for name, text in TEXTS.items():
        for block in blocks("yaml", text):
            assert set(yaml.safe_load(block)) <= known, name


def test_readme_is_short_and_every_file_it_names_exists():
    assert len(README.splitlines()) <= 120
    for name in ("README.md", "CONTRIBUTING.md"):  # mkdocs checks the links of docs/
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", TEXTS[name]):
            assert (ROOT / target).exists(), target
    screenshots = re.findall(r"\((docs/images/[^)]+)\)", README)
    assert screenshots
    assert all(10_000 < (ROOT / name).stat().st_size < 200_000 for name in screenshots)


def test_pictures_of_the_pipeline_have_every_stage():
    scripts = {path.stem for path in (ROOT / "stages").glob("[a-z]*.py")}
    for name in ("README.md", "architecture.md"):
        picture = next(block for block in blocks("", TEXTS[name]) if "─►" in block)
        assert scripts <= set(re.findall(r"[a-z]+", picture)), name


def test_the_references_of_parameters_and_public_names_are_up_to_date():
    generate = runpy.run_path(str(ROOT / "docs" / "generate_parameters.py"))
    advice = "run: python docs/generate_parameters.py"
    assert generate["page"]() == TEXTS["parameters.md"], advice
    documented = set(re.findall(r"^::: (\S+)", TEXTS["api.md"], re.MULTILINE))
    for name, (module, attribute) in heated.PUBLIC.items():
        assert f"`heated.{name}`" in TEXTS["api.md"] or f"heated.{name} " in TEXTS["api.md"]
        assert documented & {f"{module}.{attribute}", module}, name


def test_the_site_builds_without_a_warning_or_a_broken_link(tmp_path):
    site = tmp_path / "site"
    process = subprocess.Popen(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", site],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    output, _ = process.communicate()
    assert (process.returncode, output) == (0, "")
    assert (site / "index.html").exists()
    for page in site.rglob("*.html"):  # no page loads anything from elsewhere
        assert not re.findall(r'src="(?:https?:)?//', page.read_text(encoding="utf-8")), page.name


def test_every_figure_of_the_benchmarks_is_measured():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for folder in ("amd-epyc-avx512-bfloat16", "amd-epyc-avx2-float32"):
        path = ROOT / "benchmarks/results" / folder / "evaluate-60502.json"
        figures = json.loads(path.read_text(encoding="utf-8"))
        seconds = [f"{figures[f'{name}_s']:.0f} s" for name in ("retrieval", "accuracy_calculator")]
        for figure in (*seconds, f"{figures['retrieval_mib']} MiB"):
            assert figure in TEXTS["report.md"]
        assert all(each in readme for each in seconds)
    assert f"{figures['accuracy_calculator_mib'] / 1024:.1f} GiB" in TEXTS["report.md"]
