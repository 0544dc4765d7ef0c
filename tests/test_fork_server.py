"""Stages that are forks of a process with their imports behave as stages by themselves."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

from stages.fork_server import ADDRESS, stage_module

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="stages are forked on Linux only")
STUB = """
import os, sys, time
print("forked" if "this" in sys.modules else "alone", sys.argv[1:], os.environ.get("NAME"))
print("to stderr", file=sys.stderr)
if sys.argv[1] == "message": sys.exit("a message")
if sys.argv[1] == "status": sys.exit(7)
if sys.argv[1] == "error": raise ValueError("broken")
if sys.argv[1] == "wait": print(os.getpid(), flush=True); time.sleep(600)
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment in which a stage of a folder finds a server."""
    (tmp_path / "src").mkdir()
    (tmp_path / "stages").mkdir()
    for name in ("__init__.py", "fork_server.py"):
        shutil.copy(ROOT / "stages" / name, tmp_path / "stages")
    (tmp_path / "stages/stub.py").write_text(STUB, encoding="utf-8")
    address = str(tmp_path / "s")
    if len(address) > 100:
        pytest.skip("the path of the temporary folder is too long for a socket")
    code = f"import stages.fork_server as f; f.serve({address!r}, ['this'])"
    command = [sys.executable, "-c", code]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=quiet) as process:
        while not Path(address).exists():
            assert process.poll() is None
            time.sleep(0.05)
        time.sleep(0.2)  # until it listens
        yield environment | {ADDRESS: address, "FOLDER": str(tmp_path), "NAME": "näme"}
        process.kill()


def run_stub(environment: dict[str, str], argument: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "stages.stub", argument]
    folder = environment["FOLDER"]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_a_forked_stage_is_as_one_by_itself(server):
    for argument, status in (("fine", 0), ("message", 1), ("status", 7), ("error", 1)):
        forked = run_stub(server, argument)
        alone = run_stub({k: v for k, v in server.items() if k != ADDRESS}, argument)
        assert forked.stdout == f"forked ['{argument}'] näme\n"
        assert alone.stdout == f"alone ['{argument}'] näme\n"
        assert forked.returncode == alone.returncode == status
        assert forked.stderr.splitlines()[0] == "to stderr"
        assert forked.stderr.splitlines()[-1] == alone.stderr.splitlines()[-1]


def test_a_stage_runs_the_current_code(server):
    assert "forked" in run_stub(server, "fine").stdout
    Path(server["FOLDER"], "stages/stub.py").write_text("print('changed')", encoding="utf-8")
    assert run_stub(server, "fine").stdout == "changed\n"


def test_a_stage_without_a_server_under_torchrun_or_in_another_folder_runs_by_itself(
    server, tmp_path_factory
):
    copy = tmp_path_factory.mktemp("copy")
    shutil.copytree(Path(server["FOLDER"], "stages"), copy / "stages")
    absent = {ADDRESS: f"{server[ADDRESS]}none"}
    for change in (absent, {"TORCHELASTIC_RUN_ID": "1"}, {"FOLDER": str(copy)}):
        assert "alone" in run_stub(server | change, "fine").stdout


def test_a_killed_stage_fails(server):
    command = [sys.executable, "-m", "stages.stub", "wait"]
    with subprocess.Popen(
        command, cwd=server["FOLDER"], env=server, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("forked")
        os.kill(int(process.stdout.readline()), signal.SIGKILL)
        assert process.wait(60) == 1


def test_only_stages_are_handed_over():
    assert stage_module(["python", "-m", "stages.train", "digits"]) == "stages.train"
    for command in (
        ["python", "-m", "stages", "2"],
        ["python", "-c", "import stages"],
        ["python", "-m", "heated.tracking"],
        ["python"],
    ):
        assert stage_module(command) is None
