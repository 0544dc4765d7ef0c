"""Kinds of faults, for `make faults`: each breaks a copy of a build and returns what it sees."""

import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from typing import Any

import psutil
from broken_build import (
    ERROR,
    MIB,
    SAME,
    STAGES,
    Copy,
    is_one_error,
    last_line,
    project_in,
)


def signalled(copy: Copy, stage: str, number: int) -> str:
    """Send a signal at a seeded moment."""
    copy.delete("checkpoints", *(("mlflow.db*", "mlartifacts") if stage == "track" else ()))
    process = copy.start(stage)
    time.sleep(copy.random.uniform(0.02, 1) * copy.reference.seconds[stage])
    with suppress(ProcessLookupError):
        os.kill(process.pid, number)
    process.wait()
    seen = copy.whole(stage) or copy.again(stage)
    return (unfinished_runs(copy) or SAME) if stage == "track" and seen == SAME else seen


def unfinished_runs(copy: Copy) -> str:
    """Return how many of MLflow's runs are running or doubled, empty for none."""
    query = "select count(*), sum(status = 'RUNNING') from runs where lifecycle_stage = 'active'"
    counts = []
    for folder in (copy.folder, copy.reference.folder):
        with closing(sqlite3.connect(folder / "mlflow.db")) as database:
            counts.append(database.execute(query).fetchone())
    return (
        "" if counts[0] == counts[1] else f"{counts[0]} runs (all, RUNNING), expected {counts[1]}"
    )


def disk_full(copy: Copy, stage: str) -> str:
    """Fill the file system up to a few pages; without one, limit the size of files."""
    copy.delete("checkpoints", *(("mlflow.db*", "mlartifacts") if stage == "track" else ()))
    needed = sum(size_of(copy.folder / name) for name in STAGES[stage][1])
    kept = copy.random.randrange(0, max(1, min(needed, MIB)) // 2 + 1)
    if copy.fills:
        with suppress(OSError), (copy.folder / "filler").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(MIB if shutil.disk_usage(copy.folder).free > 2 * MIB else 4096))
        os.truncate(copy.folder / "filler", max(0, (copy.folder / "filler").stat().st_size - kept))
        result = copy.run(stage)
        copy.delete("filler")
    else:
        result = copy.run(stage, most_bytes=kept // 2)
    names = [str(Path(name).parent) for name in STAGES[stage][1]]
    seen = is_one_error(result, *(name for name in (*STAGES[stage][1], *names) if name != "."))
    if seen == "succeeds":  # the blocks of what is replaced were enough
        seen = ERROR
    return repaired(copy, stage, seen)


def size_of(path: Path) -> int:
    return sum(each.stat().st_size for each in (path, *path.rglob("*")) if each.is_file())


def read_only(copy: Copy, stage: str) -> str:
    """Make the file system read-only."""
    copy.delete("checkpoints")
    remount = ("mount", "-o")
    subprocess.run([*remount, "remount,ro", copy.folder], check=True)
    try:
        result = copy.run(stage)
    finally:
        subprocess.run([*remount, "remount,rw", copy.folder], check=True)
    return repaired(copy, stage, is_one_error(result, "Read-only", "read-only", "readonly"))


def repaired(copy: Copy, stage: str, seen: str) -> str:
    """Return `seen`, or what is wrong after the repair."""
    seen = copy.whole(stage) or seen
    again = copy.again(stage)
    return seen if seen != ERROR or again == SAME else f"after the repair: {again}"


RESTORES = re.compile("git (checkout|restore).*dvc.lock|make repro")
DAMAGES = ("truncated", "garbage", "empty", "missing")


def damage(path: Path, how: str, random: Random) -> None:
    """Damage a file, or delete it."""
    content = path.read_bytes()
    new = {
        "truncated": content[: len(content) // 2],
        "garbage": random.randbytes(len(content)),
        "empty": b"",
    }
    path.unlink()  # it may be a link to the cache
    if how == "flipped bits":
        flipped = bytearray(content)
        for at in random.choices(range(len(content) // 2, len(content)), k=20):  # no header
            flipped[at] ^= 0x40  # of an exponent, if it is the last byte of a number
        new[how] = bytes(flipped)
    if how != "missing":
        path.write_bytes(new[how])


def damaged(copy: Copy, stage: str, name: str, how: str) -> str:
    """Damage an input of a stage, and repair it afterwards."""
    copy.delete("checkpoints")
    path = copy.folder / name
    damage(path, how, copy.random)
    result = copy.run(stage)
    path.unlink(missing_ok=True)
    shutil.copy2(copy.reference.folder / name, path)
    names = (
        path.name,
        str(Path(name).parent),
        "stages.resolve" if "resolved" in name else path.name,
    )
    return repaired(copy, stage, is_one_error(result, *names))


def missing_seed(copy: Copy, stage: str) -> str:
    """Delete a seed's model or embeddings: later stages run, the report refuses."""
    name = "embeddings/seed-1.npz" if stage == "evaluate" else "models/seed-1.safetensors"
    copy.delete(f"runs/digits/hbn/{name}")
    for each in ("embed", "evaluate") if stage == "embed" else (stage,):
        if (result := copy.run(each))[0]:
            return is_one_error(result, "seed-1")
    return is_one_error(copy.run("report"), "seed-1")


def damaged_checkpoints(copy: Copy, how: str) -> str:
    """Kill a training that has two checkpoints, damage both, and train again."""
    copy.delete("checkpoints")
    process, pattern = copy.start("train"), "checkpoints/*/*.safetensors"
    while len(paths := sorted(copy.folder.glob(pattern))) < 2:
        if process.has_ended():
            return f"ended with {len(paths)} checkpoints"
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    for path in copy.folder.glob(pattern):
        damage(path, how, copy.random)
    return copy.again("train")


def store(copy: Copy, prepare: Callable[[Path], object]) -> str:
    """Track with MLflow's database in some state, and again with the right one."""
    path = copy.folder / "mlflow.db"
    kept = path.read_bytes()
    copy.delete("data/tracked.json")
    opened = prepare(path)
    result = copy.run("track")
    if isinstance(opened, sqlite3.Connection):
        opened.close()
    if not result[0]:
        return copy.whole("track") or unfinished_runs(copy) or SAME
    seen = is_one_error(result, "mlflow.db")
    copy.delete("mlflow.db*")
    path.write_bytes(kept)
    return repaired(copy, "track", seen)


def execute(path: Path, *statements: str) -> sqlite3.Connection:
    """Execute SQL; the last transaction stays open."""
    database = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        database.execute(statement)
    return database


def foreign(path: Path) -> None:
    path.unlink()
    execute(path, "create table customers (x)", "insert into customers values (1)").close()


def half_created(path: Path) -> None:
    path.unlink()
    execute(
        path, "create table alembic_version (version_num)", "create table experiments (x)"
    ).close()


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


STORES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "locked": (ERROR, lambda path: execute(path, "begin exclusive")),
    "truncated": (ERROR, lambda path: damage(path, "truncated", Random(0))),
    "garbage": (ERROR, lambda path: damage(path, "garbage", Random(0))),
    "empty": (SAME, lambda path: damage(path, "empty", Random(0))),
    "missing": (SAME, lambda path: path.unlink()),
    "foreign": (ERROR, foreign),
    "half created": (SAME, half_created),
    "a folder": (ERROR, as_folder),
    "later version": (
        ERROR,
        lambda path: execute(
            path, "update alembic_version set version_num = 'ffffffffffff'"
        ).close(),
    ),
    "deleted experiment": (
        f"{SAME} or {ERROR}",
        lambda path: execute(path, "update experiments set lifecycle_stage = 'deleted'").close(),
    ),
}


@contextmanager
def server(kind: str) -> Iterator[str]:
    """Run a server that is dead, hangs, or answers everything with one status and text."""
    answers = {
        "a page": (200, b"<html>Welcome"),
        "empty JSON": (200, b"{}"),
        "status 500": (500, b"oops"),
    }
    if kind in answers:
        status, body = answers[kind]

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_PUT = do_HEAD = do_GET

            def log_message(self, *_: Any) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as site:
            threading.Thread(target=site.serve_forever, daemon=True).start()
            yield f"http://me:secret@127.0.0.1:{site.server_port}"
            site.shutdown()
        return
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        if kind == "dead":
            listener.close()
        yield f"http://me:secret@127.0.0.1:{port}"  # hanging: the kernel accepts, nobody reads


SERVERS = ("dead", "a page", "empty JSON", "status 500", "hanging")


def tracked_by(copy: Copy, stage: str, kind: str) -> str:
    """Track, or train, with a server that does not work."""
    copy.delete("checkpoints", "data/tracked.json")
    with server(kind) as address:
        result = copy.run(stage, MLFLOW_TRACKING_URI=address, MLFLOW_HTTP_REQUEST_TIMEOUT="2")
    if "secret" in result[1]:
        return "the message has the password"
    if not result[0]:
        return "traceback" if "Traceback" in result[1] else copy.whole(stage) or SAME
    return repaired(copy, stage, is_one_error(result, "127.0.0.1"))


def fetched_from(copy: Copy, kind: str) -> str:
    """Download with a mirror that does not work; digits is in an installed package, too."""
    copy.delete("data/raw/digits", "downloads")
    with server(kind) as address:
        status, output = copy.run("download", HEATED_MIRROR=address)
    if "secret" in output or "Traceback" in output:
        return f"the message has a password or a traceback: {last_line(output)}"
    return copy.whole("download") or (SAME if not status else last_line(output))


def runner(copy: Copy, number: int) -> str:
    """Send a signal to the parallel runner in a build of everything, and build again."""
    project = project_in(copy.folder)
    copy.delete("dvc.lock", ".dvc/cache", ".dvc/tmp", "runs", "report", "checkpoints", "data")
    process = project.start(sys.executable, "-m", "stages", "2")
    time.sleep(copy.random.uniform(0.1, 0.95) * copy.reference.seconds["build"])
    with suppress(ProcessLookupError):
        os.kill(process.pid, number)
    process.wait()
    end = time.monotonic() + 60  # on a busy machine, killed processes take a while to end
    while (running := processes_in(copy.folder)) and time.monotonic() < end:
        time.sleep(0.2)
    for each in running:
        each.kill()
    return f"{len(running)} processes are left" if running else built_again(copy)


def processes_in(folder: Path) -> list[psutil.Process]:
    """Return the living processes whose current folder is a copy's."""
    found = []
    for process in psutil.process_iter(["cwd", "status"]):
        if process.info["status"] != psutil.STATUS_ZOMBIE and process.info["cwd"] == str(folder):
            found.append(process)
    return found


def build(copy: Copy) -> tuple[int, str]:
    """Build everything, and return the status and what is printed."""
    done = subprocess.run(
        [sys.executable, "-m", "stages", "2"],
        cwd=copy.folder,
        env=project_in(copy.folder).environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def built_again(copy: Copy) -> str:
    """Build everything, and return SAME if all is as in the reference."""
    status, output = build(copy)
    if status:
        return f"the next build fails: {last_line(output)}"
    stages = [stage for stage in STAGES if stage not in ("report", "track")]  # they hold times
    return next(filter(None, map(copy.whole, stages)), SAME)


def torn_lock(copy: Copy) -> str:
    """Tear dvc.lock, as a kill while DVC writes it does; build, and build again."""
    path = copy.folder / "dvc.lock"
    content = path.read_bytes()
    path.write_bytes(content[: copy.random.randrange(len(content) // 4, len(content) - 100)])
    status, output = build(copy)
    if "Traceback" in output or (status and not RESTORES.search(output)):
        return f"traceback, or no way out: {last_line(output)}"
    return ERROR if status else built_again(copy)
