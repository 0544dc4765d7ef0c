"""Bring every stage up to date, several runs at a time: `python -m stages JOBS`.

DVC runs one stage at a time. A run is all stages of one data set and method; it does not depend on
other runs. Each of JOBS workers builds the next outdated run with a DVC process of its own. One DVC
process builds the stages before all runs, and one those after them.

A second process, in a new session, starts all DVC processes, and ends its session when the first
one stops, by SIGKILL too: that closes a pipe between them.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType

from heated.common.outputs import unprotect
from heated.pipeline.fork_server import ADDRESS
from heated.pipeline.lock_file import keep_lock_file, restore_lock_file

RUN_STAGES = ("tune", "train", "embed", "evaluate", "gradients")  # in their order
DVC = (sys.executable, "-m", "dvc")
JOBS = "HEATED_JOBS"  # variable with the number of processes that share a GPU
GRACE = 35  # seconds from SIGINT to SIGKILL; torchrun ends its workers within 30

popen_lock = threading.Lock()
stopping = threading.Event()  # set with the lock held: no process starts after SIGINT


def main(arguments: Sequence[str]) -> int:
    """Build in a second process and return its exit status; exit with 128 + N on signal N.

    A second SIGINT kills everything at once.
    """
    if len(arguments) != 1 or not arguments[0].isdigit() or int(arguments[0]) < 1:
        sys.exit(f"JOBS: got {' '.join(arguments)!r}, expected one integer >= 1. Name JOBS=2.")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(number, exit_by_signal)
    code = "import stages; from heated.pipeline.runner import run_builder; "  # of this project
    code += f"run_builder({arguments[0]})"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, start_new_session=True
    ) as builder:
        try:
            return builder.wait()
        finally:
            try:
                builder.communicate()  # closes the pipe
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(builder.pid, signal.SIGKILL)


def exit_by_signal(number: int, frame: FrameType | None) -> None:
    """Exit with the shell's status for a signal; further SIGTERM and SIGHUP have no effect."""
    for repeated in (signal.SIGTERM, signal.SIGHUP):  # make forwards what its group gets as well
        signal.signal(repeated, signal.SIG_IGN)
    sys.exit(128 + number)


def run_builder(jobs: int) -> None:
    """Exit with the status of `repro`; end the session when standard input closes."""
    os.environ[JOBS] = str(jobs)  # stages that share a GPU limit their memory by it
    signal.signal(signal.SIGINT, lambda number, frame: None)  # DVC would inherit SIG_IGN
    threading.Thread(target=end_session_at_eof, daemon=True).start()
    try:
        sys.exit(repro(jobs))
    finally:
        if stopping.is_set():
            os.killpg(0, signal.SIGKILL)


def end_session_at_eof() -> None:
    """Wait until standard input closes, then end all processes of this session."""
    os.read(0, 1)
    with popen_lock:
        stopping.set()
    os.killpg(0, signal.SIGINT)
    time.sleep(GRACE)
    os.killpg(0, signal.SIGKILL)


def repro(jobs: int) -> int:
    """Bring every stage up to date and return the exit status.

    A failed run does not stop the others. After a failure, what depends on runs is not built: it
    depends on all of them, and `dvc repro --keep-going` would only repeat the failed stage.
    """
    restore_lock_file()
    outdated = outdated_stages()
    if not outdated:
        print("Data and pipelines are up to date.")
        return 0
    if jobs == 1:
        return dvc("repro").returncode
    with fork_server():
        names = dvc_output("stage", "list", "--name-only").split()  # in the order of dvc.yaml
        shared = shared_stages(names)
        if outdated & set(shared):
            if status := dvc("repro", *shared).returncode:
                return status
            outdated = outdated_stages()
        runs = outdated_runs(outdated, names)
        single = ("--wait-for-lock", "repro", "--single-item")  # ends at the first stage that fails
        with ThreadPoolExecutor(jobs) as pool:
            statuses = [*pool.map(lambda run: dvc(*single, *run).returncode, runs)]
        for (*_, last), status in zip(runs, statuses, strict=True):
            if status:
                got = f"{stage_parts(last)[1]}: got exit status {status}, expected 0."
                print(f"{got} Run `dvc repro {last}` to repeat it alone.", file=sys.stderr)
        return 1 if any(statuses) else dvc("repro").returncode


@contextmanager
def fork_server(*, wait: bool = False) -> Iterator[None]:
    """Let stages be forks of a process that has done their imports, on Linux.

    With `wait`, all stages are; otherwise not those that start while it imports.
    """
    if sys.platform != "linux":
        yield
        return
    with TemporaryDirectory() as folder:
        address = str(Path(folder) / "socket")
        code = "import stages; from heated.pipeline.fork_server import serve; "
        command = [sys.executable, "-c", code + f"serve({address!r}, wait={wait})"]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL) as server:
            os.environ[ADDRESS] = address
            try:
                yield
            finally:
                del os.environ[ADDRESS]
                server.terminate()


def dvc(*arguments: str, stdout: int | None = None) -> subprocess.CompletedProcess[str]:
    """Run DVC; raise SystemExit when the session is ending."""
    with popen_lock:
        if stopping.is_set():
            sys.exit(1)
        command = [*DVC, *arguments]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stdout, text=True)
    output, _ = process.communicate()
    if stopping.is_set():
        sys.exit(1)
    return subprocess.CompletedProcess(command, process.returncode, output)


def dvc_output(*arguments: str) -> str:
    """Return what DVC prints; exit with its status if it fails, after its own message."""
    done = dvc(*arguments, stdout=subprocess.PIPE)
    return done.stdout if not done.returncode else sys.exit(done.returncode)


def outdated_stages() -> set[str]:
    """Return the stages whose inputs, outputs or parameters differ from their last run's.

    DVC has read dvc.lock then, and a copy is kept. Outputs changed in place are built again,
    even if one is the same file as its object in DVC's cache.
    """
    status = json.loads(dvc_output("status", "--json"))
    keep_lock_file()
    changes = [change for stage in status.values() for change in stage if isinstance(change, dict)]
    for out, state in (item for each in changes for item in each.get("changed outs", {}).items()):
        if state == "modified":
            unprotect(Path(out))
    return set(status)


def shared_stages(names: Sequence[str]) -> list[str]:
    """Return the stages that runs depend on: dvc.yaml has them before its last run.

    >>> shared_stages(["resolve", "split@digits", "train@digits-bn", "report"])
    ['resolve', 'split@digits']
    """
    last = max((i for i, n in enumerate(names) if stage_parts(n)[0] in RUN_STAGES), default=0)
    return [name for name in names[:last] if stage_parts(name)[0] not in RUN_STAGES]


def outdated_runs(outdated: set[str], names: Sequence[str]) -> list[list[str]]:
    """Return the stages of each run that has an outdated one, in the order of RUN_STAGES."""
    runs: dict[str, list[str]] = {}
    parts = {name: stage_parts(name) for name in names}
    for name in (name for stage in RUN_STAGES for name in names if parts[name][0] == stage):
        runs.setdefault(parts[name][1], []).append(name)
    return [stages for stages in runs.values() if outdated & set(stages)]


def stage_parts(name: str) -> tuple[str, str]:
    """Return a stage's kind without its study, and its data set with the method if it has one.

    >>> stage_parts("train-schedule_shapes@digits-hbn-linear")
    ('train', 'digits-hbn-linear')
    """
    stage, _, item = name.partition("@")
    return stage.partition("-")[0], item
