"""Shared by several tests: the repository's root, and a copy of the project to run DVC in."""

import os

# Before torch is loaded: threads of several test processes on few cores are many times slower.
os.environ["OMP_NUM_THREADS"] = "1"

import shutil
import signal
import sqlite3
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
from filelock import FileLock
from hypothesis import settings
from reported import METHODS, QUERIES, dataset_report, write_runs
from server import Site, served

from heated.config import FILES
from heated.datasets import http
from heated.pipeline.fork_server import ADDRESS
from heated.reporting.release import DatasetReport, write_report
from heated.reporting.run_results import RunResult, read_results

# No test asserts a wall-clock time, and every run tests the same examples.
settings.register_profile("same", deadline=None, derandomize=True)
settings.load_profile("same")

ROOT = Path(__file__).resolve().parent.parent


servers = ExitStack()  # closed at the end of the session


@cache
def fork_server() -> str:
    """Return the address of a process of which stages are forks; their imports take seconds."""
    address = f"{mkdtemp()}/socket"
    code = "import stages; from heated.pipeline.fork_server import serve; "
    command = [sys.executable, "-c", code + f"serve({address!r}, wait=True)"]
    server = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL)
    servers.callback(shutil.rmtree, Path(address).parent)
    servers.enter_context(server)
    servers.callback(server.kill)
    return address


def pytest_sessionstart() -> None:
    Project.has_forks = True


def pytest_sessionfinish() -> None:
    servers.close()


class Project:
    """A copy of the project with a git and a DVC repository of its own."""

    has_forks = False  # whether stages are forks of a server, which the end of a session stops

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        files = subprocess.check_output(command, cwd=ROOT, text=True)
        for name in filter(None, files.split("\0")):
            if (ROOT / name).exists() and not name.startswith(("dvc.lock", "metrics/")):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        self.run("git", "init", "--quiet")
        self.run("git", "add", "--all")
        identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
        self.run("git", *identity, "commit", "--quiet", "--message", "copy")

    def run(self, *command: str, status: int = 0, **environment: str) -> str:
        """Return what a command prints to both streams; fail if its status is another one."""
        server = {ADDRESS: fork_server()} if self.has_forks else {}
        process = subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment(**server | environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        output, _ = process.communicate()
        assert process.returncode == status, output
        return output

    def environment(self, **more: str) -> dict[str, str]:
        """Return this environment with the copy's code, and without settings of git, DVC etc."""
        removed = ("GIT_", "DVC_", "MLFLOW_", "HEATED_", "MAKE", "PYTEST_")
        clean = {k: v for k, v in os.environ.items() if not k.startswith(removed)}
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        code = {"PATH": path, "PYTHONPATH": str(self.folder / "src")}
        return {**clean, **code, "GIT_CONFIG_GLOBAL": os.devnull, **more}

    def start(self, *command: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start a server in a new process group."""
        env, quiet = self.environment(**environment), subprocess.DEVNULL
        return subprocess.Popen(
            command, cwd=self.folder, env=env, stdout=quiet, stderr=quiet, start_new_session=True
        )

    def stop(self, server: subprocess.Popen[bytes], by: int = signal.SIGTERM) -> None:
        """End the server and all processes it started, if they have not ended."""
        with suppress(ProcessLookupError):
            os.killpg(server.pid, by)
        server.wait()

    def stage(self, name: str, *arguments: str, status: int = 0, **environment: str) -> str:
        """Run a stage without DVC, and return what it prints."""
        command = (sys.executable, "-m", f"stages.{name}", *arguments)
        return self.run(*command, status=status, **environment)

    def edit(self, changes: Mapping[str, Any]) -> None:
        """Set the values of keys such as `run.seeds` in the files that have them."""
        from dvc.utils.serialize import modify_yaml  # as `dvc exp run --set-param` does it

        for path, value in changes.items():
            with modify_yaml(str(self.folder / yaml_file(path))) as section:
                *outer, last = path.split(".")
                for key in outer:
                    section = section.setdefault(key, {})
                section[last] = value

    @contextmanager
    def edited(self, changes: Mapping[str, Any]) -> Iterator[None]:
        """Edit, and undo it at the end."""
        kept = {name: (self.folder / name).read_bytes() for name in FILES}
        try:
            yield self.edit(changes)
        finally:
            for name, text in kept.items():
                (self.folder / name).write_bytes(text)


def yaml_file(path: str) -> str:
    """Return the YAML file of a key. A method's key is in the file that has the method."""
    section, _, rest = path.partition(".")
    files = [name for name, sections in FILES.items() if section in sections]
    if section == "methods":
        method = rest.partition(".")[0]
        texts = {name: (ROOT / name).read_text(encoding="utf-8") for name in files}
        files = [name for name in files if f"\n  {method}:" in texts[name]] or ["studies.yaml"]
    return files[0]


SHORT = {  # a recipe of digits that takes a minute
    "run.methods": ["hbn"],
    "run.seeds": [0],
    "studies.embeddings_2d.methods": ["ln"],
    "datasets.digits.training.epochs": 2,
    "datasets.digits.training.backbone.width": 8,
    "datasets.digits.evaluation.kmeans.restarts": 1,
    "datasets.digits-upright.training.epochs": 2,
}


@pytest.fixture(scope="session")
def make_venv() -> Path:
    """The .venv that `make` sets up, for a copy's `make` to use; skip if it is not up to date."""
    venv, pins = Path(sys.prefix), [ROOT / "pyproject.toml", *ROOT.glob("requirements*.txt")]
    ready = [venv / ".ready", venv / ".ready-dev"]
    newest = max(path.stat().st_mtime for path in pins)
    if not all(path.exists() and path.stat().st_mtime >= newest for path in ready):
        # make would install the copy into this .venv, which then forgets the original
        pytest.skip("needs the .venv that make sets up, up to date: run the tests by `make test`")
    return venv


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, make_venv: Path) -> Project:
    """A project on a short recipe, built by `make repro`."""
    project = Project(tmp_path_factory.mktemp("project"))
    (project.folder / ".venv").symlink_to(make_venv)
    project.edit(SHORT)
    project.run("make", "repro")
    return project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.fixture(scope="session")
def mirror() -> Path:
    """A folder with real data sets: HEATED_MIRROR, or shared/data next to the project."""
    folder = ROOT / os.environ.get("HEATED_MIRROR", "../shared/data")
    if not folder.is_dir():
        pytest.skip("needs real data sets: set HEATED_MIRROR to their folder")
    return folder


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A server of files on loopback."""
    monkeypatch.setenv("no_proxy", "*")
    with served() as site:
        yield site


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    """A folder of two runs on one data set, as the stages write them."""
    runs = tmp_path_factory.mktemp("runs")
    write_runs(runs)
    return runs


@pytest.fixture
def runs(written, tmp_path):
    """A copy of the folder for a test to change."""
    return Path(shutil.copytree(written, tmp_path / "runs"))


@pytest.fixture(scope="session")
def results(written: Path) -> list[RunResult]:
    """The two runs, read."""
    return read_results(written, "digits", METHODS)


@pytest.fixture(scope="session")
def digits(results: list[RunResult]) -> DatasetReport:
    """What the report has on the two runs."""
    return dataset_report(results, gallery=QUERIES)


@pytest.fixture(scope="session")
def more(results: list[RunResult]) -> DatasetReport:
    """The same of another data set, without neighbors to show."""
    return dataset_report([replace(result, dataset="more") for result in results])


@pytest.fixture(scope="session")
def report(digits, more, tmp_path_factory):
    """The report's folder on both, to be read only."""
    path = tmp_path_factory.mktemp("report") / "report"
    write_report(path, [digits, more])
    return path


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that were to be waited before each further try of a download; nobody waits."""
    waits: list[float] = []
    monkeypatch.setattr(http, "sleep", waits.append)
    return waits


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark tests that run stages in a copy of the project."""
    projects = {"project", "built", "baseline", "competed", "uninterrupted"}  # fixtures
    if projects & set(getattr(item, "fixturenames", ())):
        item.add_marker("pipeline")


@pytest.fixture
def new_folder(tmp_path: Path) -> Callable[[], Path]:
    """A function that returns a new empty folder at each call."""
    return lambda: Path(mkdtemp(dir=tmp_path))


@pytest.fixture(scope="session")
def mlflow_template(tmp_path_factory):
    """An empty MLflow database, which takes seconds to create: test processes share and copy it."""
    base = tmp_path_factory.getbasetemp()
    path = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "mlflow-template.db"
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    with FileLock(f"{path}.lock"), warnings.catch_warnings():
        if path.exists():
            return path
        warnings.simplefilter("ignore")  # of MLflow, when it is imported and creates its tables
        from mlflow.tracking import MlflowClient

        part = path.with_suffix(".part")
        MlflowClient(f"sqlite:///{part}").search_experiments()
        with closing(sqlite3.connect(part)) as database, database:
            database.execute("DELETE FROM experiments")  # the default one, whose row names a folder
        part.replace(path)
    return path


@pytest.fixture(scope="module")
def mlflow_folder(tmp_path_factory, mlflow_template):
    """A project's folder with an empty MLflow database, which this process uses."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copy(mlflow_template, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_ROOT", str(folder))
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.delenv("HEATED_TRACKING", raising=False)
        yield folder
