"""`python -m stages JOBS`, in small DVC repositories whose stages are named as the pipeline's."""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import yaml
from conftest import ROOT
from dvc.schema import COMPILED_LOCKFILE_SCHEMA

from heated.pipeline import runner
from heated.pipeline.lock_file import LOCK_COPY, is_cut_off, restore_lock_file
from heated.pipeline.runner import RUN_STAGES, outdated_runs, shared_stages, stage_parts

STAGES = [f"{kind}@digits-{m}" for kind in ("evaluate", "train", "embed") for m in ("bn", "ln")]

# A stage writes its process and its session, waits for a file if its name is in `waits`, and fails
# if its name is in `fails`.
STUB = """
import os, pathlib, sys, time
name, out = sys.argv[1:]
pathlib.Path("started", name).write_text(f"{os.getpid()} {os.getsid(0)}")
awaited = dict(line.split() for line in open("waits"))
limit = time.monotonic() + 120
while name in awaited and not pathlib.Path(awaited[name]).exists():
    assert time.monotonic() < limit, "waited in vain"
    time.sleep(.05)
assert name not in open("fails").read().split()
pathlib.Path(out).parent.mkdir(parents=True, exist_ok=True)
pathlib.Path(out).write_text(name)
"""

# DVC that writes its command line into a file first.
LOGGED = """
import sys
from dvc.cli import main
with open("commands", "a") as log:
    print(*sys.argv[1:], file=log)
sys.exit(main())
"""


def test_an_outdated_run_is_all_its_stages_in_the_order_they_depend_on_each_other():
    (run,) = outdated_runs({"embed@digits-bn"}, [*STAGES, "split@digits", "report"])
    assert run == ["train@digits-bn", "embed@digits-bn", "evaluate@digits-bn"]
    assert outdated_runs({"check", "report"}, STAGES) == []
    study = [f"{kind}-schedule_shapes@digits-hbn-linear" for kind in ("train", "evaluate")]
    assert outdated_runs({study[0]}, [*reversed(study), "train@digits-bn"]) == [study]


def test_stages_before_the_last_run_are_shared_and_reports_follow_all_runs():
    shared, study = ["first", "split@a", "split-embeddings_2d@b"], "train-embeddings_2d@b-x"
    names = ["first", "split@a", "train@a-x", "split-embeddings_2d@b", study, "report"]
    assert shared_stages(names) == shared
    names = list(yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"])
    kinds, shared = ({stage_parts(name)[0] for name in n} for n in (names, shared_stages(names)))
    assert kinds - {*RUN_STAGES} - shared == {"report", "track"}


# As DVC writes it, with a folder and a file that is not in its cache.
LOCK = b"""schema: '2.0'
stages:
  embed@digits-bn:
    cmd: python -m stages.embed digits bn
    deps:
    - path: stages/embed.py
      hash: md5
      md5: 868631bb9e6dccb3c569ace9effa97b5
      size: 1434
    outs:
    - path: runs/digits/bn/embeddings
      hash: md5
      md5: 38d79d48f94096caad5e0ddc516273bd.dir
      size: 65204
      nfiles: 26
  report:
    cmd: python -m stages.report
    deps:
    - path: runs
      hash: md5
      md5: 98a528abfd2410de71c75e2a347569e5.dir
      size: 36502174
      nfiles: 121
    outs:
    - path: metrics.json
      hash: md5
      md5: 28d16e9f81a1e49e620130734caec7e3
      size: 1324
"""


def test_a_lock_file_that_is_cut_off_anywhere_is_replaced_or_can_be_read(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # with nothing committed
    later = LOCK.replace(b"1434", b"1435")  # of another run than the copy
    assert not any(is_cut_off(LOCK, copy) for copy in (LOCK, later, b"", LOCK[:300]))
    starts = [LOCK[:size] for size in range(len(LOCK))]
    assert all(is_cut_off(start, LOCK) for start in starts)
    whole = [start for start in starts if not is_cut_off(start, b"")]
    for start in whole:
        COMPILED_LOCKFILE_SCHEMA(yaml.safe_load(start))  # else DVC refuses it
    assert 0 < len(whole) < 12  # once per line that may be an output's last


def test_a_committed_lock_file_with_fewer_stages_than_its_copy_is_left_alone(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    earlier = LOCK[: LOCK.index(b"  report:")]
    Path("dvc.lock").write_bytes(earlier)
    LOCK_COPY.parent.mkdir(parents=True)
    LOCK_COPY.write_bytes(LOCK)
    user = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    for command in (["init", "-q"], ["add", "dvc.lock"], [*user, "commit", "-qm", "build"]):
        subprocess.run(["git", *command], check=True)
    restore_lock_file()
    assert Path("dvc.lock").read_bytes() == earlier
    subprocess.run(["git", *user, "commit", "-qm", "none", "--allow-empty"], check=True)
    Path("dvc.lock").write_bytes(earlier[: earlier.rindex(b"      nfiles")])
    restore_lock_file()
    assert Path("dvc.lock").read_bytes() == LOCK


def test_jobs_that_are_no_positive_integer_stop_with_the_expected_value():
    for arguments in ([], ["0"], ["-1"], ["two"], ["1", "2"]):
        with pytest.raises(SystemExit, match="JOBS: got .* expected one integer >= 1"):
            runner.main(arguments)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DVC repository of three runs on one data set, not built."""

    def stage(name, deps, out, **matrix):
        command = {"cmd": f"{sys.executable} stub.py {name} {out}", "deps": deps, "outs": [out]}
        return {"matrix": matrix, **command} if matrix else command

    folder = tmp_path_factory.mktemp("template")
    (folder / "started").mkdir()
    shutil.copytree(ROOT / "stages", folder / "stages")
    files = {"stub.py": STUB, "logged.py": LOGGED, "waits": "", "fails": ""}
    for name, text in (files | dict.fromkeys(("params.yaml", "code"), "seed: 0\n")).items():
        (folder / name).write_text(text, encoding="utf-8")
    resolved, packed = "data/resolved", "data/packed/${item.dataset}"
    stages = {
        "first": stage("first", ["params.yaml"], resolved),
        "split": stage("split@${item.dataset}", [resolved], packed, dataset=["a"]),
    }
    item, deps = "${item.dataset}-${item.method}", [packed, "code"]
    for kind in ("train", "embed", "evaluate"):
        out = f"runs/${{item.dataset}}/${{item.method}}/{kind}"
        axes = {"dataset": ["a"], "method": ["x", "y", "z"]}
        stages[kind] = stage(f"{kind}@{item}", deps, out, **axes)
        deps = [out]
    stages["report"] = stage("report", ["runs"], "report")
    text = yaml.safe_dump({"stages": stages}, sort_keys=False)
    (folder / "dvc.yaml").write_text(text, encoding="utf-8")
    run_dvc(folder, "init", "--no-scm", "--quiet")
    run_dvc(folder, "config", "core.analytics", "false")
    return folder


def run_dvc(folder: Path, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=folder, check=True)


@pytest.fixture(scope="module")
def complete(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository, built."""
    folder = tmp_path_factory.mktemp("complete") / "repository"
    shutil.copytree(template, folder)
    run_dvc(folder, "repro", "--quiet")
    return folder


@pytest.fixture
def repository(complete: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of the built repository whose code has changed, as `enter_copy` makes it."""
    enter_copy(complete, tmp_path, monkeypatch)
    Path("code").write_text("another\n", encoding="utf-8")


def enter_copy(folder: Path, to: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a copy of a repository the current folder, and log DVC's commands there."""
    shutil.copytree(folder, to, dirs_exist_ok=True)
    for started in (to / "started").iterdir():
        started.unlink()
    monkeypatch.chdir(to)
    monkeypatch.setattr(runner, "DVC", (sys.executable, "logged.py"))


def commands() -> list[str]:
    """Return the command lines of DVC in the order in which they started."""
    lines = Path("commands").read_text(encoding="utf-8").splitlines()
    return [line.replace("--wait-for-lock ", "") for line in lines]


def started() -> set[str]:
    return {path.name for path in Path("started").iterdir()}


@pytest.mark.slow
def test_nothing_to_do_is_one_question_to_dvc(complete, tmp_path, monkeypatch, capsys):
    enter_copy(complete, tmp_path, monkeypatch)
    assert runner.repro(2) == 0
    assert commands() == ["status --json"]
    assert capsys.readouterr().out == "Data and pipelines are up to date.\n"


@pytest.mark.slow
def test_a_free_worker_takes_the_next_run(template, tmp_path, monkeypatch):
    enter_copy(template, tmp_path, monkeypatch)
    # x ends only after z: with z in a fixed share of x's worker, it would wait in vain
    Path("waits").write_text("train@a-x runs/a/z/evaluate\n", encoding="utf-8")
    assert runner.repro(2) == 0
    assert Path("report").exists()
    questions = ["stage list --name-only", "repro first split@a", "status --json"]
    assert commands()[:4] == ["status --json", *questions]
    runs = [f"repro --single-item train@a-{m} embed@a-{m} evaluate@a-{m}" for m in "xyz"]
    assert sorted(commands()[4:7]) == runs
    assert commands()[7:] == ["repro"]


@pytest.mark.slow
def test_other_runs_are_built_if_one_fails(repository, capsys):
    Path("fails").write_text("train@a-x", encoding="utf-8")
    others = [Path(f"runs/a/{method}/train") for method in "yz"]
    for path in others:
        path.unlink()
    assert runner.repro(2) == 1
    message = "a-x: got exit status 255, expected 0. Run `dvc repro evaluate@a-x`"
    assert message in capsys.readouterr().err
    assert started() == {"train@a-x", "train@a-y", "train@a-z"}  # their outputs are as before
    assert all(path.exists() for path in others)
    assert "repro" not in commands()
    assert commands().count("status --json") == 1  # shared stages were up to date


@pytest.mark.slow
@pytest.mark.parametrize("links", ["reflink,copy", "hardlink", "symlink"])
def test_an_output_changed_in_place_is_built_again(complete, tmp_path, monkeypatch, links):
    enter_copy(complete, tmp_path, monkeypatch)
    run_dvc(tmp_path, "config", "cache.type", links)
    run_dvc(tmp_path, "checkout", "--relink")
    paths = [Path("runs/a/x/train"), Path("report")]
    before = [path.read_bytes() for path in paths]
    for path in paths:
        with os.fdopen(os.open(path, os.O_WRONLY), "wb") as file:  # root may, also if it is 444
            file.write(b"?")
    assert runner.repro(2) == 0
    assert [path.read_bytes() for path in paths] == before
    assert runner.repro(2) == 0
    assert commands()[-1] == "status --json"


@pytest.mark.slow
@pytest.mark.parametrize("size", [0, 10, 0.3, 0.9])
def test_a_lock_file_that_is_cut_off_is_replaced_by_its_copy(
    complete, tmp_path, monkeypatch, capsys, size
):
    enter_copy(complete, tmp_path, monkeypatch)
    assert runner.repro(2) == 0
    lock = Path("dvc.lock").read_bytes()
    shutil.rmtree(".dvc/cache/runs")
    os.truncate("dvc.lock", int(size if size >= 1 else size * len(lock)))
    assert runner.repro(2) == 0
    assert "dvc.lock was cut off, probably by a kill: replaced by" in capsys.readouterr().out
    assert (Path("dvc.lock").read_bytes(), started()) == (lock, set())
    LOCK_COPY.unlink()
    os.truncate("dvc.lock", 10)
    with pytest.raises(SystemExit, match="dvc.lock is cut off.* `git checkout dvc.lock`"):
        runner.repro(2)


def running(session: int) -> list[int]:
    """Return the living processes of a session."""
    found = []
    for process in psutil.process_iter(["pid", "status"]):
        with suppress(ProcessLookupError):
            alive = process.info["status"] != psutil.STATUS_ZOMBIE
            if alive and os.getsid(process.pid) == session:
                found.append(process.pid)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("jobs", "numbers", "status"),
    [
        (1, [signal.SIGTERM], 143),
        (2, [signal.SIGINT], 130),
        (2, [signal.SIGTERM], 143),
        (2, [signal.SIGHUP], 129),
        (2, [signal.SIGKILL], -9),
        (1, [signal.SIGINT, signal.SIGINT], 130),  # its processes ignore the first
    ],
)
def test_a_signal_ends_all_processes(repository, jobs, numbers, status):
    if len(numbers) > 1:
        ignoring = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        Path("stub.py").write_text(ignoring + STUB, encoding="utf-8")
    names = ["train@a-x", "train@a-y"][:jobs]
    Path("waits").write_text("".join(f"{name} never\n" for name in names), encoding="utf-8")
    session = interrupt(jobs, names, numbers, status)
    wait_until(lambda: not running(session))
    assert started() == set(names)


def interrupt(jobs: int, names: list[str], numbers: list[int], status: int) -> int:
    """Signal the runner once stages run, and return their session."""
    command = [sys.executable, "-m", "stages", str(jobs)]
    process = subprocess.Popen(command, preexec_fn=reset_signals)
    try:
        files = [Path("started", name) for name in names]
        wait_until(lambda: all(file.exists() and file.read_text() for file in files))
        (session,) = {int(file.read_text(encoding="utf-8").split()[1]) for file in files}
        assert len(running(session)) > 2 * jobs  # with DVC and the second process
        for number in numbers:
            process.send_signal(number)
            time.sleep(0.5)  # two signals at once are one
        assert process.wait(60) == status
    finally:
        process.kill()
        process.wait()
    return session


def reset_signals() -> None:
    """Handle signals that a shell's background job or nohup ignores, which children inherit."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def wait_until(condition) -> None:
    limit = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.1)
