"""What the README tells a user to type, and what it claims."""

import json
import re
import socket
import sqlite3
import subprocess
import time
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from importlib.metadata import version
from io import BytesIO

import pytest
import torch
from conftest import ROOT, Project
from PIL import Image
from test_experiments import COMMANDS as EXPERIMENTS
from torch.utils.data import DataLoader, TensorDataset

pytestmark = pytest.mark.xdist_group("built")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The README's code blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


COMMANDS = [
    line.split("#")[0].strip() for block in blocks("sh") for line in block.splitlines() if line
]


def as_it_stands(project: Project, command: str) -> None:
    project.run("bash", "-c", command)


def creates_a_venv(project: Project, command: str) -> None:
    project.run("bash", "-c", f"{command.replace('.venv', 'other-venv')} && python --version")


def as_pinned(project: Project, command: str) -> None:
    # The tests run in what `make` installed from this file; to install it again takes minutes.
    lines = (project.folder / command.split()[-1]).read_text(encoding="utf-8").splitlines()
    pins = [line.split("#")[0].split(";") for line in lines if "==" in line]
    here = [pin[0].strip() for pin in pins if len(pin) == 1]
    assert len(here) > 10
    for name, _, pinned in (pin.partition("==") for pin in here):
        assert version(name) == pinned


def adds_no_run(project: Project, command: str) -> None:
    def runs() -> int:
        with closing(sqlite3.connect(project.folder / "mlflow.db")) as store:
            count: int = store.execute("select count(*) from runs").fetchone()[0]
            return count

    before = runs()
    project.run("bash", "-c", command)
    assert runs() == before > 0


def runs_tests(project: Project, command: str) -> None:
    told = project.run("bash", "-c", command, PYTEST_ADDOPTS="src/heated/training/schedules.py")
    assert "passed" in told


def starts_the_pages(project: Project, command: str) -> None:
    told = project.run("bash", "-c", f"{command} --dry-run")
    assert "python -m heated.tracking" in told


def answers(project: Project, command: str) -> None:
    with served(project, command, "/") as (_, text):
        assert MLFLOW in text


def page(url: str, server: subprocess.Popen[bytes], *, patience: float = 600) -> str:
    """The page at `url`, asked for until it is there; fails where the server has ended."""
    end = time.monotonic() + patience
    while True:
        assert server.poll() is None
        try:
            with urllib.request.urlopen(url, timeout=10) as reply:
                text: str = reply.read().decode()
                return text
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.5)


def would_measure(project: Project, command: str) -> None:
    # It takes ten minutes; tests/test_benchmarks.py runs what it runs, on less.
    told = project.run("bash", "-c", f"{command} --dry-run")
    assert "python benchmarks/evaluate.py" in told


EVALUATE = "torchrun --nproc-per-node=2 -m stages.evaluate digits hbn"


def writes_metrics(project: Project, command: str) -> None:
    path = project.folder / "runs" / "digits" / "hbn" / "metrics.json"
    before = path.read_bytes()
    project.run("bash", "-c", command)
    assert path.read_bytes() == before


SERVER = (
    "mlflow server --backend-store-uri sqlite:///shared.db --artifacts-destination shared-artifacts"
)
TO_SERVER = "MLFLOW_TRACKING_URI=http://127.0.0.1:5000 make track"
MLFLOW = "<title>MLflow</title>"  # of its pages
SERVE = "mlflow models serve --model-uri models:/heated-digits@champion --env-manager local"


@contextmanager
def served(project: Project, command: str, path: str) -> Iterator[tuple[str, str]]:
    """The address of what a command serves, once there is an answer at the path, and the answer."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = project.start(*command.split(), "--port", str(port))
    try:
        address = f"http://127.0.0.1:{port}"
        yield address, page(f"{address}{path}", server)
    finally:
        project.stop(server)


def fills_a_server(project: Project, command: str) -> None:
    with served(project, SERVER, "/") as (address, text):
        assert MLFLOW in text
        for _ in range(2):
            project.run("bash", "-c", command.replace("http://127.0.0.1:5000", address))
    with closing(sqlite3.connect(project.folder / "shared.db")) as store:
        names = [name for (name,) in store.execute("select name from runs order by name")]
    assert names[:2] == ["hbn · digits", "hbn · digits · seed 0"]
    assert len(names) == len(set(names))
    kept = [path.name for path in (project.folder / "shared-artifacts").rglob("*")]
    assert {"index.html", "curves.svg", "embeddings.svg"} <= set(kept)


def serves_a_model(project: Project, command: str) -> None:
    with project.edited({"tracking.models": "registered"}):
        project.run("make", "track")
    project.run("make", "track")  # as other tests expect it
    file = BytesIO()
    Image.new("L", (9, 11)).save(file, "png")
    image = b64encode(file.getvalue()).decode()
    with served(project, command, "/ping") as (address, _):
        request = urllib.request.Request(
            f"{address}/invocations",
            json.dumps({"inputs": [image]}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as reply:
            (embedding,) = json.load(reply)["predictions"]
    assert sum(value**2 for value in embedding) == pytest.approx(1, abs=1e-5)


def exports(project: Project, command: str) -> None:
    project.run("bash", "-c", command)
    assert (project.folder / "hbn.onnx").stat().st_size > 1000


HOW: dict[str, Callable[[Project, str], None]] = {
    "make repro": as_it_stands,
    "make ui": starts_the_pages,
    "python3 -m venv .venv && . .venv/bin/activate": creates_a_venv,
    "pip install -r requirements.txt": as_pinned,
    "pip install -r requirements-dev.txt": as_pinned,
    "pytest": runs_tests,
    "dvc repro": as_it_stands,
    "python -m heated.tracking": answers,
    "dvc metrics show": as_it_stands,
    "dvc plots show": as_it_stands,
    "make repro JOBS=1": as_it_stands,
    "make preview": as_it_stands,
    "python -m stages.resolve --show methods.hbn": as_it_stands,
    "make track": adds_no_run,
    "make test": runs_tests,
    "make bench": would_measure,
    EVALUATE: writes_metrics,
    TO_SERVER: fills_a_server,
    "python -m heated.inference.onnx runs/digits/hbn/models/seed-0.safetensors hbn.onnx": exports,
    SERVE: serves_a_model,
}


def test_every_command_of_the_readme_is_tested() -> None:
    # TO_SERVER's test starts SERVER; tests/test_experiments.py types its own
    assert set(COMMANDS) == {*HOW, SERVER} | EXPERIMENTS


@pytest.mark.parametrize("command", HOW)
def test_a_command_of_the_readme_works(built: Project, command: str) -> None:
    HOW[command](built, command)


def test_the_loop_in_the_readme_trains() -> None:
    torch.manual_seed(0)
    labels = torch.arange(100)
    data = DataLoader(TensorDataset(torch.randn(100, 32), labels), batch_size=20)
    scope = {"network": torch.nn.Linear(32, 64), "loader": data, "epochs": 20}
    (code,) = blocks("python")
    exec(compile(code, "README.md", "exec"), scope)
    head, network = scope["head"].eval(), scope["network"]
    predicted = head.logits(network(data.dataset.tensors[0])).argmax(dim=1)
    assert (predicted == labels).float().mean() > 0.9
    assert head.alpha == 4


def test_every_file_the_readme_names_is_there() -> None:
    for name in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / name).exists(), name


def test_every_figure_of_the_benchmarks_is_one_that_was_measured() -> None:
    figures = json.loads((ROOT / "benchmarks/results/evaluate.json").read_text(encoding="utf-8"))
    seconds, mib, peer_seconds, peer_gib = (
        f"{figures['retrieval_s']:.0f} s",
        f"{figures['retrieval_mib']} MiB",
        f"{figures['accuracy_calculator_s']:.0f} s",
        f"{figures['accuracy_calculator_mib'] / 1024:.1f} GiB",
    )
    assert all(figure in README for figure in (seconds, mib, peer_seconds, peer_gib))
