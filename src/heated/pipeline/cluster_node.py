"""The part of `heated.pipeline.cluster` that Ray calls on a worker.

Ray sends it there with the driver's code, so it imports only the standard library. A worker has a
folder per project, with a clone for each task that runs at the same time. They share DVC's cache
and the checkpoints.
"""

import fcntl
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

FOLDER = "HEATED_WORKER_FOLDER"  # variable with a worker's folder
# Ray kills the children of a worker that ends: its grandchild is left, and ends all of the session.
SHELL = ("sh", "-c", '"$0" "$@"; exit $?')
TAIL = 15  # lines of a failed task's output for the driver


@dataclass(frozen=True)
class Job:
    """What all tasks of a driver share."""

    project: str  # name of the folder on a worker
    commit: str
    environment: dict[str, str] = field(default_factory=dict)


class Driver:
    """An actor that exists while a driver runs."""

    def host(self) -> str:
        """Return its host."""
        return os.uname().nodename


def build(repository: bytes, job: Job, name: str, stages: Sequence[str], *needed: Any) -> Any:
    """Build stages, and return host, seconds, the stages that ran, and their part of dvc.lock.

    Ray passes the results of the tasks `needed`, and starts this one after them.
    """
    start = time.monotonic()
    with free_clone(job.project) as (clone, lock):
        output = run_task(clone, lock, repository, job, "build", *stages, log_name=name)
        entries = json.loads((clone / ".dvc/tmp/lock-entries.json").read_text(encoding="utf-8"))
    ran = re.findall(r"^Running stage '(.+)'", output, re.MULTILINE)
    seconds = time.monotonic() - start
    return {"host": os.uname().nodename, "seconds": seconds, "ran": ran, "lock": entries}


def check(repository: bytes, job: Job, token: str) -> str:
    """Return why this node cannot build, "" if it can."""
    try:
        with free_clone(job.project) as (clone, lock):
            run_task(clone, lock, repository, job, "check", token, log_name="check")
    except (OSError, RuntimeError) as error:
        return str(error)
    return ""


def run_task(
    clone: Path, lock: IO[str], repository: bytes, job: Job, *arguments: str, log_name: str
) -> str:
    """Run `cluster_task` in a clone of the commit and return its output.

    It ends when this process does, by SIGKILL too: that closes the pipe to it.
    """
    check_out(clone, repository, job.commit)
    root = clone.parent
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    # In DVC_ROOT are the checkpoints and downloads, as for DVC's temporary experiments.
    local = {"PATH": path, "PYTHONPATH": str(clone / "src"), "DVC_ROOT": str(root)}
    log = root / "logs" / f"{log_name}.log"
    log.parent.mkdir(exist_ok=True)
    with log.open("ab") as stream:  # earlier attempts stay there
        start = stream.tell()
        process = subprocess.Popen(
            [*SHELL, sys.executable, "-m", "heated.pipeline.cluster_task", *arguments],
            cwd=clone,
            env={**os.environ, **local, **job.environment},
            stdin=subprocess.PIPE,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=[lock.fileno()],
        )
        try:
            status = process.wait()
        finally:
            process.communicate()  # closes the pipe
    output = log.read_bytes()[start:].decode(errors="replace")
    if status:
        tail = "\n".join(output.rstrip().splitlines()[-TAIL:])
        raise RuntimeError(f"got exit status {status} (see {log} there):\n{tail}")
    return output


@contextmanager
def free_clone(project: str) -> Iterator[tuple[Path, IO[str]]]:
    """Yield the first clone that no task uses, with its lock.

    Processes of the task inherit the lock: after a kill the clone is free when all have ended.
    """
    root = Path(os.environ.get(FOLDER, "~/.cache/heated-worker")).expanduser() / project
    root.mkdir(parents=True, exist_ok=True)
    for number in count():
        with (root / f"clone-{number}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield root / f"clone-{number}", lock
            return


def git(folder: Path, *arguments: str) -> str:
    """Return git's output; raise RuntimeError with its message if it fails."""
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"git {arguments[0]}: {done.stderr.strip()}")
    return done.stdout.strip()


def check_out(clone: Path, repository: bytes, commit: str) -> None:
    """Make `clone` a working copy of the commit in a packed repository; keep its results.

    DVC's cache belongs to all clones of the project. A dvc.lock is removed: a kill may have cut it
    off, and DVC takes results from its run cache.
    """
    clone.mkdir(exist_ok=True)
    git(clone, "init", "--quiet")
    with TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(repository)) as archive:
            archive.extractall(folder, filter="data")
        git(clone, "fetch", "--quiet", "--depth", "1", "--update-shallow", folder, "HEAD")
    git(clone, "checkout", "--quiet", "--force", "--detach", "FETCH_HEAD")
    git(clone, "clean", "--quiet", "--force", "--", "dvc.lock")
    if (got := git(clone, "rev-parse", "HEAD")) != commit:
        raise RuntimeError(f"got commit {got}, expected {commit}.")
    links = "reflink,hardlink,symlink,copy"
    (clone / ".dvc/config.local").write_text(
        f'[cache]\n    dir = {clone.parent / "cache"}\n    type = "{links}"\n', encoding="utf-8"
    )
