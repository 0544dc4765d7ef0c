"""Build stages in a worker's clone of the commit: restore from DVC's remote, run, push.

`cluster_node` starts `python -m heated.pipeline.cluster_task build STAGE...` there; `check TOKEN`
tests that the remote is the driver's and can be written. All processes of the session end when
standard input closes.
"""

import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dvc.cli import main as dvc
from dvc.repo import Repo
from dvc.stage.cache import StageCache, _get_stage_hash
from dvc.stage.serialize import to_single_stage_lockfile
from dvc_objects.fs import generic

from heated.common.io import write_json
from heated.pipeline.runner import end_session_at_eof, fork_server, stopping

LOCK_ENTRIES = Path(".dvc/tmp/lock-entries.json")
ENTRY = re.compile(r"runs/[0-9a-f]{2}/[0-9a-f]{64}/[0-9a-f]{64}")  # of the run cache


def build(stages: Sequence[str]) -> int:
    """Bring stages and those they depend on up to date, and return the exit status.

    LOCK_ENTRIES then has the stages' part of dvc.lock. Results are pushed before the entries of
    the run cache that name them: a kill leaves no entry without files.
    """
    StageCache.transfer = lambda cache, source, target, force=True: copy(
        source, target, missing_entries(source, target)
    )
    with fork_server():
        status: int = dvc(["repro", "--pull", *stages])
    if status:
        return status
    with Repo() as repo:
        built = [each for name in stages for each in repo.stage.collect(name)]
        entries = {each.name: to_single_stage_lockfile(each) for each in built}
        write_json(LOCK_ENTRIES, entries)
        keys = {*map(_get_stage_hash, built)}
        cache = repo.cache.legacy
        remote = repo.cloud.get_remote_odb(None, "push", hash_name="md5-dos2unix")
        names = [n for n in missing_entries(cache, remote) if n.split("/")[2] in keys]
        if names:
            status = dvc(["push", *stages])
        if not status:
            copy(cache, remote, names)
    return status


def missing_entries(source: Any, target: Any) -> list[str]:
    """Return the entries of the run cache in `source` that `target` lacks.

    DVC 3.67 copies all entries each time, so that each run would take longer than the one before.
    """
    names: list[set[str]] = []
    for odb in (source, target):
        files = odb.fs.find(odb.fs.join(odb.path, "runs"))
        found = (odb.fs.as_posix(odb.fs.relpath(file, odb.path)) for file in files)
        names.append({name for name in found if ENTRY.fullmatch(name)})
    return sorted(names[0] - names[1])


def copy(source: Any, target: Any, names: Sequence[str]) -> list[tuple[str, ...]]:
    """Copy entries of the run cache; return the key and the name of each, as DVC does."""
    if names:
        paths = [[odb.fs.join(odb.path, *n.split("/")) for n in names] for odb in (source, target)]
        generic.copy(source.fs, paths[0], target.fs, paths[1])
    return [tuple(name.split("/")[-2:]) for name in names]


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
