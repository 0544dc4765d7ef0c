"""The cluster runner: two Ray nodes on loopback without shared files, and an S3 server."""

import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from copy import copy
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import boto3
import psutil
import pytest
import yaml
from conftest import ROOT, SHORT, Project
from server_process import Server
from test_parallel import reset_signals

from heated.common.errors import InputError
from heated.pipeline import cluster, cluster_checks, cluster_node, run_cache
from heated.pipeline.cluster_node import Job, git

pytestmark = [
    pytest.mark.xdist_group("cluster"),
    pytest.mark.timeout(1800),  # of the first test with its fixtures, on a busy machine
]
METHODS = ["sm", "ln", "hln", "bn", "hbn", "bn-heat"]
SETTINGS = SHORT | {
    "run.methods": METHODS,
    "studies.embeddings_2d.datasets": [],
    "studies.gradients.methods": [],
}
RAY = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus", "1"]
RAY += ["--object-store-memory", "100000000", "--disable-usage-stats"]
RAY += ["--node-ip-address", "127.0.0.1"]
S3 = dict.fromkeys(("aws_access_key_id", "aws_secret_access_key"), "test")
WAIT_S = 600  # on a busy machine

# A training that imports this waits after an epoch, which MLflow has then, while a file exists.
PAUSES = """
import os, time
from heated.tracking.live_logger import LiveLogger
log = LiveLogger.log
def pausing(self, *arguments):
    log(self, *arguments)
    while os.path.exists(os.environ["PAUSE"]):
        time.sleep(.1)
        waits = self.upload is None or self.upload.done() and self.has_failed
        if self.enabled and waits:
            self.upload = self.executor.submit(self.upload_rows, "RUNNING")
LiveLogger.log = pausing
"""


class Node:
    """A Ray node with a folder of its own for clones."""

    def __init__(self, folder: Path, arguments: list[str], env: dict[str, str]) -> None:
        folder.mkdir()
        self.folder, self.log = folder, folder / "ray.log"
        env = env | {cluster_node.FOLDER: str(folder)}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*RAY, *arguments], env=env, stdout=log, stderr=log, start_new_session=True
            )
        wait_until(lambda: "Ray runtime started" in self.text() or self.process.poll() is not None)
        assert self.process.poll() is None, self.text()

    def text(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def kill(self) -> None:
        """Kill Ray's processes; those of its tasks are in other sessions."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def ran(self, stage: str) -> list[str]:
        """Return what this node started to run, repetitions included."""
        logs = [path.read_text(encoding="utf-8") for path in self.folder.glob("*/logs/*.log")]
        return re.findall(rf"^Running stage '{stage}@(.+)'", "".join(logs), re.MULTILINE)

    def tasks(self) -> list[int]:
        """Return the processes of its tasks."""
        found = []
        for process in psutil.process_iter(["pid", "status"]):
            with suppress(psutil.Error):
                of_node = process.environ().get(cluster_node.FOLDER) == str(self.folder)
                if of_node and "DVC_ROOT" in process.environ():
                    found.append(process.pid)
        return found


def wait_until(condition) -> None:
    limit = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.2)


class Nodes:
    """A cluster of two nodes that do not know the project, and find an S3 server."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.env, self.nodes = env, list[Node]()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address = f"127.0.0.1:{port}"
        self.temporary = mkdtemp(prefix="ray")  # its sockets need short names
        head = ["--head", "--port", str(port), "--include-dashboard", "false"]
        try:
            self.nodes.append(Node(folder / "a", [*head, "--temp-dir", self.temporary], env))
            self.nodes.append(Node(folder / "b", ["--address", self.address], env))
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        for node in self.nodes:
            node.kill()
        shutil.rmtree(self.temporary, ignore_errors=True)

    def ran(self, stage: str) -> list[str]:
        return sorted(name for node in self.nodes for name in node.ran(stage))

    def environment(self, **more: str) -> dict[str, str]:
        """Return the variables of a driver."""
        names = [name for name in self.env if name.startswith(("AWS_", "RAY_", "PAUSE"))]
        return {name: self.env[name] for name in names} | {"HEATED_TRACKING": "off"} | more

    def driver(self) -> list[str]:
        return [sys.executable, "-m", "heated.pipeline.cluster", "--address", self.address]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    if find_spec("ray") is None:
        pytest.skip("needs Ray: pip install -e '.[cluster]'")
    folder = tmp_path_factory.mktemp("nodes")
    removed = ("GIT_", "DVC_", "MLFLOW_", "HEATED_", "MAKE", "PYTEST_", "PYTHONPATH")
    env = {k: v for k, v in os.environ.items() if not k.startswith(removed)}
    env |= {name.upper(): value for name, value in S3.items()}
    env |= {"AWS_REGION": "us-east-1", "PAUSE": str(folder / "pause")}
    # without a token in the home directory; with the priority of this process
    env |= {"RAY_AUTH_MODE": "disabled", "RAY_worker_niceness": "0"}
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1"]
    with Server(command, "/", folder, env) as server:
        for bucket in ("one", "two"):
            request = urllib.request.Request(f"{server.address}/{bucket}", method="PUT")
            urllib.request.urlopen(request, timeout=60).close()
        nodes = Nodes(folder, env | {"AWS_ENDPOINT_URL": server.address})
        yield nodes
        nodes.stop()


def commit(project: Project, message: str) -> None:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    project.run("git", "add", "--all")
    project.run("git", *identity, "commit", "--quiet", "--message", message)


def make_project(folder: Path, settings: dict[str, object], bucket: str) -> Project:
    """Return a project whose settings and remote are committed."""
    folder.mkdir()
    project = Project(folder)
    project.edit(settings)
    project.run("dvc", "remote", "add", "--default", "storage", f"s3://{bucket}/heated")
    commit(project, "settings")
    return project


def clone_of(project: Project, name: str) -> Project:
    clone = copy(project)
    clone.folder = project.folder.with_name(name)
    project.run("git", "clone", "--quiet", str(project.folder), str(clone.folder))
    return clone


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory, nodes: Nodes) -> Project:
    """A project built on one machine, without a cluster."""
    project = make_project(tmp_path_factory.mktemp("one") / "project", SETTINGS, "one")
    project.run(sys.executable, "-m", "stages", "2", HEATED_TRACKING="off")
    return project


@pytest.fixture(scope="module")
def clone(baseline: Project) -> Project:
    return clone_of(baseline, "clone")


@pytest.fixture(scope="module")
def printed(clone: Project, nodes: Nodes) -> str:
    """What the driver printed that built the clone on the cluster."""
    return clone.run(*nodes.driver(), **nodes.environment())


@pytest.mark.slow
def test_every_run_is_trained_once_by_workers_with_the_bits_of_one_machine(
    baseline, clone, printed, nodes
):
    runs = sorted(f"digits-{method}" for method in METHODS)
    assert nodes.ran("train") == runs
    assert nodes.ran("split") == ["digits"]
    assert all(node.ran("train") for node in nodes.nodes)
    assert re.findall(r"^Running stage '(.+)'", printed, re.MULTILINE) == ["report", "track"]
    lines = re.findall(r"^\[./7\] (\S+): .*\w+ in \d+ s on", printed, re.MULTILINE)
    assert (lines[0], sorted(lines[1:])) == ("digits", runs)
    models = sorted(clone.folder.glob("runs/digits/*/models/*.safetensors"))
    assert len(models) == len(METHODS)
    metrics = [*clone.folder.glob("metrics/*/*"), *clone.folder.glob("runs/digits/*/metrics.json")]
    assert len(metrics) == 2 * len(METHODS)
    for path in (*models, *metrics):
        other = baseline.folder / path.relative_to(clone.folder)
        assert path.read_bytes() == other.read_bytes(), path


@pytest.mark.slow
def test_a_second_driver_on_another_clone_trains_nothing(baseline, clone, printed, nodes):
    before = nodes.ran("train")
    second = clone_of(baseline, "second")
    output = second.run(*nodes.driver(), **nodes.environment())
    assert nodes.ran("train") == before
    assert re.findall(r"^Running stage '(.+)'", output, re.MULTILINE) == ["report", "track"]
    assert "DVC's remote has 20 of 22 outdated stages." in output
    for path in clone.folder.glob("metrics/*/*"):
        other = second.folder / path.relative_to(clone.folder)
        assert path.read_bytes() == other.read_bytes(), path


CONNECT = """
import sys
import ray
from heated.common.errors import exit_on_error
from heated.pipeline import cluster
address, ray.__version__, gpus = sys.argv[1:]
with exit_on_error(), cluster.cluster(address, None) as connected:
    cluster.task_options(connected, num_gpus=float(gpus))
"""


@pytest.mark.slow
def test_a_cluster_that_does_not_fit_is_refused(baseline, nodes):
    this = version("ray")
    cases = [
        (nodes.address, "2.0.0", 0, "Version mismatch: The cluster was started with"),
        ("127.0.0.1:1", this, 0, "Connection refused"),
        (nodes.address, this, 1, "'num_gpus': 1.0"),
        (nodes.address, this, 1.5, "--num-gpus: got 1.5, expected 0, a whole number"),
    ]
    for address, ray, gpus, message in cases:
        command = [sys.executable, "-c", CONNECT, address, ray, str(gpus)]
        output = baseline.run(*command, status=1, **nodes.environment())
        assert message in output
        assert "expected" in output
        assert "Traceback" not in output


@pytest.fixture(scope="module")
def paused(tmp_path_factory: pytest.TempPathFactory, nodes: Nodes) -> Iterator[Project]:
    """A project of two runs whose trainings wait after an epoch, while a file exists."""
    project = pausing_project(tmp_path_factory.mktemp("two") / "project")
    Path(nodes.env["PAUSE"]).touch()
    yield project
    Path(nodes.env["PAUSE"]).unlink(missing_ok=True)


@pytest.mark.slow
def test_an_interrupt_ends_all_tasks_and_leaves_a_remote_with_all_files_it_names(paused, nodes):
    before = len(nodes.ran("train"))
    with start(paused, nodes.driver(), nodes.environment()) as driver:
        wait_until(lambda: len(nodes.ran("train")) == before + 2)
        driver.send_signal(signal.SIGINT)
        assert driver.wait(WAIT_S) == 130
    wait_until(lambda: not any(node.tasks() for node in nodes.nodes))
    data = {f"data/{name}" for name in ("resolved", "raw/digits", "packed/digits")}
    assert outputs_in_remote(nodes, "two") == data


@pytest.mark.slow
def test_the_run_of_a_node_that_is_killed_ends_on_the_other(paused, baseline, nodes):
    """Its results are the same, and MLflow has each run once. A second driver is refused."""
    with mlflow_server(paused) as server:
        database = paused.folder.with_name("mlflow.db")
        env = nodes.environment(MLFLOW_TRACKING_URI=server.address, HEATED_TRACKING="on")
        with start(paused, nodes.driver(), env) as driver:
            wait_until(lambda: len(live_seeds(database)) == 2)
            output = clone_of(paused, "refused").run(*nodes.driver(), status=1, **env)
            assert "got a second driver with this DVC remote, expected one" in output
            started = [Counter(node.ran("train")) for node in nodes.nodes]
            nodes.nodes[1].kill()
            wait_until(lambda: not nodes.nodes[1].tasks())
            Path(nodes.env["PAUSE"]).unlink()
            assert driver.wait(WAIT_S) == 0
    (again,) = (Counter(nodes.nodes[0].ran("train")) - started[0]).elements()
    assert again in started[1]
    for folder in (f"runs/digits/{name}" for name in ("ln", "hbn")):
        assert f"{folder}/models" in outputs_in_remote(nodes, "two")
        for name in ("models/seed-0.safetensors", "metrics.json"):
            path = f"{folder}/{name}"
            assert (paused.folder / path).read_bytes() == (baseline.folder / path).read_bytes()
    names, statuses = zip(*published(database), strict=True)
    assert sorted(names) == sorted(set(names))
    assert {f"{m} · digits · seed 0" for m in ("ln", "hbn")} < set(names)
    assert {*statuses} == {"FINISHED"}


def outputs_in_remote(nodes: Nodes, bucket: str) -> set[str]:
    """Return the outputs that a remote's run cache names, after a check that it has their files."""
    s3 = boto3.client("s3", endpoint_url=nodes.env["AWS_ENDPOINT_URL"], **S3)
    keys = {each["Key"] for each in s3.list_objects_v2(Bucket=bucket)["Contents"]}

    def read(key: str) -> Any:
        return yaml.safe_load(s3.get_object(Bucket=bucket, Key=key)["Body"].read())

    entries = [read(key) for key in keys if key.startswith("heated/runs/")]
    outs = {out["path"]: out["md5"] for entry in entries for out in entry["outs"]}
    digests = {*outs.values()}
    folders = [read(object_key(digest)) for digest in digests if digest.endswith(".dir")]
    digests |= {file["md5"] for folder in folders for file in folder}
    assert {object_key(digest) for digest in digests} <= keys
    return {*outs}


def object_key(digest: str) -> str:
    return f"heated/files/md5/{digest[:2]}/{digest[2:]}"


def pausing_project(folder: Path) -> Project:
    """Return a project of two runs whose trainings wait after an epoch."""
    changes = {"run.methods": ["ln", "hbn"], "tracking.interval_s": 0.1}
    project = make_project(folder, SETTINGS | changes, "two")
    (folder / "pauses.py").write_text(PAUSES, encoding="utf-8")
    train = folder / "stages/train.py"
    text = train.read_text(encoding="utf-8").replace(
        "\nif __name__", "\nimport pauses\n\nif __name__"
    )
    train.write_text(text, encoding="utf-8")
    commit(project, "pauses")
    return project


def mlflow_server(project: Project) -> Server:
    folder = project.folder.parent
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    return Server(command, "/health", folder, project.environment(**quiet))


@contextmanager
def start(
    project: Project, command: list[str], env: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a command, and kill it at the end if it runs then; its output is in a file."""
    with (project.folder.parent / "output").open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=project.folder,
            env=project.environment(**env),
            stdout=output,
            stderr=output,
            preexec_fn=reset_signals,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def published(database: Path) -> list[tuple[str, str]]:
    """Return name and status of MLflow's runs."""
    with closing(sqlite3.connect(database)) as store:
        query = "select name, status from runs where lifecycle_stage = 'active'"
        return store.execute(query).fetchall()


def live_seeds(database: Path) -> list[str]:
    return [n for n, status in published(database) if "seed" in n and status == "RUNNING"]


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small git and DVC repository, with a remote that this machine has."""
    folder = tmp_path / "repository"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv(cluster_node.FOLDER, str(tmp_path / "worker"))
    package = "src/heated"
    for name in ("stages/__init__.py", f"{package}/common", f"{package}/pipeline"):
        copy_tree = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        copy_tree(ROOT / name, folder / name)
    (folder / package / "__init__.py").touch()
    git(folder, "init", "--quiet")
    for command in (["init"], ["remote", "add", "--default", "storage", str(tmp_path / "remote")]):
        subprocess.run([sys.executable, "-m", "dvc", *command, "--quiet"], check=True)
    commit_all(folder)
    (tmp_path / "remote").mkdir()
    return folder


def commit_all(folder: Path) -> str:
    """Commit all files and return the commit."""
    git(folder, "add", "--all")
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    git(folder, *identity, "commit", "--quiet", "--message", "all")
    return git(folder, "rev-parse", "HEAD")


@pytest.mark.slow
def test_a_project_without_a_remote_or_with_changes_is_refused(repository):
    assert cluster_checks.check_commit() == git(repository, "rev-parse", "HEAD")
    Path("dvc.lock").write_text("written by stages", encoding="utf-8")
    cluster_checks.check_commit()
    Path("params.yaml").write_text("seed: 0", encoding="utf-8")
    with pytest.raises(InputError, match="uncommitted changes in params.yaml, expected none"):
        cluster_checks.check_commit()
    Path(".dvc/config").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match="no default remote, expected one. Run `dvc remote add"):
        cluster_checks.remote_url()


def test_a_second_driver_in_a_folder_is_refused(tmp_path, monkeypatch):
    (tmp_path / ".dvc").mkdir()
    monkeypatch.chdir(tmp_path)
    second = cluster_checks.one_driver_here()
    with (
        cluster_checks.one_driver_here(),
        pytest.raises(InputError, match="got a second driver"),
        second,
    ):
        pass


@pytest.mark.slow
def test_a_worker_without_the_commit_or_a_remote_to_write_is_refused(repository, tmp_path):
    commit = cluster_checks.check_commit()
    packed, job = cluster.packed_commit(), Job("project", commit)
    (tmp_path / "remote" / "token").touch()
    assert cluster_node.check(packed, job, "token") == ""
    assert [path.name for path in (tmp_path / "remote").iterdir()] == ["token"]
    other = replace(job, commit="0" * 40)
    assert f"got commit {commit}, expected 000" in cluster_node.check(packed, other, "token")
    assert "remote than the driver's" in cluster_node.check(packed, job, "another-token")
    folder = "/proc/self"  # where even root cannot write
    Path(".dvc/config").write_text(
        f"[core]\n    remote = storage\n['remote \"storage\"']\n    url = {folder}\n",
        encoding="utf-8",
    )
    job = replace(job, commit=commit_all(repository))
    message = cluster_node.check(cluster.packed_commit(), job, "status")
    assert "/proc/self: got" in message
    assert "expected a remote that this worker can write" in message


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:_NoneStep.value")  # in DVC
def test_a_remote_tells_a_driver_what_workers_built(repository, tmp_path):
    def stage(dep: str, out: str) -> dict[str, Any]:
        return {"cmd": f"cat {dep} > {out}", "deps": [dep], "outs": [out]}

    stages = {"packed": stage("images", "packed"), "model": stage("packed", "model")}
    stages |= {"metrics": stage("model", "metrics")}
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": stages}), encoding="utf-8")
    Path("images").write_text("images", encoding="utf-8")
    assert run_cache.lock_entries_in_remote(["metrics"]) == {}
    job = Job("project", commit_all(repository))
    built = cluster_node.build(cluster.packed_commit(), job, "a", ["packed", "model"])
    assert built["ran"] == ["packed", "model"]
    assert run_cache.lock_entries_in_remote(["metrics"]) == built["lock"]
    assert cluster.restore(built["lock"]) == set()
    assert Path("model").read_text(encoding="utf-8") == "images"
    shutil.rmtree(tmp_path / "worker")
    again = cluster_node.build(cluster.packed_commit(), job, "a", ["packed", "model"])
    assert (again["ran"], again["lock"]) == ([], built["lock"])
    Path("images").write_text("others", encoding="utf-8")
    assert run_cache.lock_entries_in_remote(["metrics"]) == {}


@pytest.mark.slow
def test_a_worker_without_git_is_refused(repository, tmp_path, monkeypatch):
    packed, job = cluster.packed_commit(), Job("project", cluster_checks.check_commit())
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "No such file or directory: 'git'" in cluster_node.check(packed, job, "token")


@pytest.mark.slow
def test_a_clone_is_moved_to_another_commit_and_keeps_its_results(repository, tmp_path):
    clone, first = tmp_path / "clone", cluster_checks.check_commit()
    cluster_node.check_out(clone, cluster.packed_commit(), first)
    for name in ("dvc.lock", "results"):
        (clone / name).touch()
    (clone / "stages/__init__.py").write_text("changed", encoding="utf-8")
    shallow = tmp_path / "shallow"
    Path("added").touch()
    second = commit_all(repository)
    git(tmp_path, "clone", "--quiet", "--depth", "1", repository.as_uri(), str(shallow))
    os.chdir(shallow)
    cluster_node.check_out(clone, cluster.packed_commit(), second)
    assert (clone / "added").exists()
    assert (clone / "results").exists()
    assert not (clone / "dvc.lock").exists()
    assert git(clone, "status", "--porcelain") == "?? results"


def test_tasks_at_the_same_time_have_clones_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setenv(cluster_node.FOLDER, str(tmp_path))
    with cluster_node.free_clone("x") as (first, _), cluster_node.free_clone("x") as (second, _):
        assert (first.name, second.name) == ("clone-0", "clone-1")
    with cluster_node.free_clone("x") as (third, _):
        assert third == first
