"""Build stages in a worker's clone of the commit: restore from DVC's remote, run, push.

`cluster_node` starts `python -m heated.pipeline.cluster_task build STAGE...` there; `check TOKEN`
tests that the remote is the driver's and can be written. All processes of the session end when
standard input closes.
"""

import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from dvc.cli import main as dvc
from dvc.repo import Repo
from dvc.stage.cache import StageCache, _get_stage_hash
from dvc.stage.serialize import to_single_stage_lockfile

from heated.common.io import write_json
from heated.pipeline import run_cache
from heated.pipeline.runner import (
    RUN_STAGES,
    end_session_at_eof,
    fork_server,
    stage_parts,
    stopping,
)

LOCK_ENTRIES = Path(".dvc/tmp/lock-entries.json")


def build(stages: Sequence[str]) -> int:
    """Bring stages and those they depend on up to date, and return the exit status.

    LOCK_ENTRIES then has the stages' part of dvc.lock. Results are pushed before the entries of
    the run cache that name them: a kill leaves no entry without files.
    """
    StageCache.transfer = run_cache.copy_missing_entries
    trains = any(stage_parts(name)[0] in RUN_STAGES for name in stages)
    with fork_server(wait=True) if trains else nullcontext():
        status: int = dvc(["repro", "--pull", *stages])
    if status := status or dvc(["push", *stages]):
        return status
    with Repo() as repo:
        built = [each for name in stages for each in repo.stage.collect(name)]
        entries = {each.name: to_single_stage_lockfile(each) for each in built}
        write_json(LOCK_ENTRIES, entries)
        keys = {*map(_get_stage_hash, built)}
        cache, remote = repo.cache.legacy, run_cache.remote_odb(repo)
        names = run_cache.missing_entries(cache, remote)
        run_cache.copy_entries(cache, remote, [n for n in names if n.split("/")[2] in keys])
    return 0


def check(token: str) -> int:
    """Return 0 if the remote has the driver's file and accepts one, else 1 after a message."""
    with Repo() as repo:
        remote = repo.cloud.get_remote()
    path = remote.fs.join(remote.path, token)
    if not remote.fs.exists(path):
        print(f"{remote.path}: got another remote than the driver's, expected the same one.")
        return 1
    own = f"{path}-{socket.gethostname()}-{os.getpid()}"
    try:
        remote.fs.pipe_file(own, b"")
        remote.fs.rm_file(own)
    except Exception as error:
        print(f"{remote.path}: got {error!r}, expected a remote that this worker can write.")
        return 1
    return 0


def main(arguments: Sequence[str]) -> None:
    """Exit with the status of a task; end the session when standard input closes."""
    signal.signal(signal.SIGINT, lambda number, frame: None)  # stages end by it, then this process
    threading.Thread(target=end_session_at_eof, daemon=True).start()
    kind, *values = arguments
    try:
        sys.exit(build(values) if kind == "build" else check(*values))
    finally:
        if stopping.is_set():
            os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1:])
