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

from heated.pipeline.fork_server import ADDRESS, stage_module

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
    package = "src/heated/pipeline"
    (tmp_path / package).mkdir(parents=True)
    (tmp_path / "stages").mkdir()
    for name in ("stages/__init__.py", f"{package}/__init__.py", f"{package}/fork_server.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "src/heated/__init__.py").touch()
    (tmp_path / "stages/stub.py").write_text(STUB, encoding="utf-8")
    address = str(tmp_path / "s")
    if len(address) > 100:
        pytest.skip("the path of the temporary folder is too long for a socket")
    code = "import stages; from heated.pipeline.fork_server import serve; "
    code += f"serve({address!r}, ['this'])"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=environment) as process:
        while not Path(address).exists():
            assert process.poll() is None
            time.sleep(0.05)
        time.sleep(0.2)  # until it listens
        yield environment | {ADDRESS: address, "FOLDER": str(tmp_path), "NAME": "näme"}
        process.kill()


def run_stub(environment: dict[str, str], argument: str) -> tuple[int, str, list[str]]:
    """Return a stage's exit status, its output, and the lines of its messages."""
    with subprocess.Popen(
        [sys.executable, "-m", "stages.stub", argument],
        cwd=environment["FOLDER"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        if argument == "wait":
            assert process.stdout is not None
            process.stdout.readline()
            os.kill(int(process.stdout.readline()), signal.SIGKILL)
        output, errors = process.communicate(timeout=60)
        return process.returncode, output, errors.splitlines()


def test_a_forked_stage_is_as_one_by_itself_and_fails_if_it_is_killed(server):
    without = {k: v for k, v in server.items() if k != ADDRESS}
    for argument, expected in (("fine", 0), ("message", 1), ("status", 7), ("error", 1)):
        status, output, errors = run_stub(server, argument)
        assert (status, output) == (expected, f"forked ['{argument}'] näme\n")
        assert errors[0] == "to stderr"
        status, output, errors_alone = run_stub(without, argument)
        assert (status, output) == (expected, f"alone ['{argument}'] näme\n")
        assert errors[-1] == errors_alone[-1]
    assert run_stub(server, "wait")[0] == 1


def test_a_stage_runs_the_current_code(server):
    Path(server["FOLDER"], "stages/stub.py").write_text("print('changed')", encoding="utf-8")
    assert run_stub(server, "fine")[:2] == (0, "changed\n")
    package = Path(server["FOLDER"], "src/heated/__init__.py")
    package.write_text("VALUE = 'of the package'", encoding="utf-8")  # the server has imported it
    code = "import heated; print(heated.VALUE)"
    Path(server["FOLDER"], "stages/stub.py").write_text(code, encoding="utf-8")
    assert run_stub(server, "fine")[:2] == (0, "of the package\n")


def test_a_stage_of_another_folder_runs_the_code_there(server, tmp_path_factory):
    copy = tmp_path_factory.mktemp("copy")
    for name in ("src", "stages"):
        shutil.copytree(Path(server["FOLDER"], name), copy / name)
    (copy / "src/heated/__init__.py").write_text("VALUE = 'of the copy'", encoding="utf-8")
    code = "import heated, os, sys; print('this' in sys.modules, heated.VALUE, os.getcwd())"
    (copy / "stages/stub.py").write_text(code, encoding="utf-8")
    there = server | {"FOLDER": str(copy)}
    assert run_stub(there, "fine")[:2] == (0, f"True of the copy {copy}\n")
    assert run_stub(server, "fine")[1].startswith("forked")


def test_a_stage_without_a_server_or_under_torchrun_runs_by_itself(server):
    for change in ({ADDRESS: f"{server[ADDRESS]}none"}, {"TORCHELASTIC_RUN_ID": "1"}):
        assert "alone" in run_stub(server | change, "fine")[1]


def test_only_stages_are_handed_over():
    assert stage_module(["python", "-m", "stages.train", "digits"]) == "stages.train"
    for command in ("python -m stages 2", "python -c stages.x", "python -m heated.x", "python"):
        assert stage_module(command.split()) is None
