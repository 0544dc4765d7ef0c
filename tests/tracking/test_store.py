"""Every state of MLflow's store ends in one message with advice that fits."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import tracked
from tracked import HISTORIES, METRICS, make_record

from heated.common.errors import InputError
from heated.tracking import publish
from heated.tracking.publish import publish_run, with_retries
from heated.tracking.store import (
    TransientError,
    open_store,
    redact_secrets,
    store_address,
    store_error,
    store_lock,
)

pytestmark = [
    pytest.mark.xdist_group("mlflow-tracking"),
    pytest.mark.mlflow,
    pytest.mark.filterwarnings(tracked.MLFLOW_WARNING),
]
REBUILD = "run `make track`, which writes all runs again"
SECRETS = ("us3r", "s3cr3t", "t0k3n")


@pytest.fixture
def folder(mlflow_template, tmp_path, monkeypatch):
    """A project's folder with an empty database."""
    shutil.copy(mlflow_template, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    for name in ("MLFLOW_TRACKING_URI", "HEATED_TRACKING", "DVC_EXP_NAME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.mark.parametrize(
    "message",
    [
        "Experiment(name=digits) already exists. RESOURCE_ALREADY_EXISTS",
        "(sqlite3.IntegrityError) UNIQUE constraint failed: datasets.experiment_id, datasets.name",
        'duplicate key value violates unique constraint "dataset_pk"',
        "(1062, \"Duplicate entry 'digits' for key 'datasets.PRIMARY'\")",
    ],
)
def test_an_error_of_two_writers_at_once_is_tried_again(folder, message):
    assert isinstance(store_error(RuntimeError(message)), TransientError)
    assert not isinstance(store_error(RuntimeError("no such table")), TransientError)


def publish_one(key: str = "one") -> str:
    return with_retries(lambda: publish_run(make_record(key), HISTORIES, METRICS))


@contextmanager
def locked(database: Path, kind: str) -> Iterator[None]:
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute(f"BEGIN {kind}")
        yield


def overwrite(database: Path, start: int, stop: int | None = None) -> None:
    content = bytearray(database.read_bytes())
    content[start:stop] = b"x" * len(content[start:stop])
    database.write_bytes(content)


def execute(database: Path, *commands: str) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        for command in commands:
            connection.execute(command)


def set_schema(version: str) -> Callable[[Path], None]:
    return lambda path: execute(path, f"UPDATE alembic_version SET version_num = '{version}'")


DAMAGE = {
    "header": (lambda path: overwrite(path, 0, 100), REBUILD),
    "pages": (lambda path: overwrite(path, 4096), REBUILD),
    "truncated": (lambda path: os.truncate(path, path.stat().st_size // 2), REBUILD),
    "earlier schema": (set_schema("1bd49d398cd23"), "mlflow db upgrade sqlite:///"),
    "later schema": (set_schema("ffffffffffff"), "Install that version of MLflow"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_database_or_one_of_another_version_is_one_message(folder, name, capfd):
    publish_one()
    damage, advice = DAMAGE[name]
    moved = folder / "moved"  # a new file: this process has the other one open
    moved.mkdir()
    shutil.copy(folder / "mlflow.db", moved)
    damage(moved / "mlflow.db")
    os.environ["DVC_ROOT"] = str(moved)
    content = (moved / "mlflow.db").read_bytes()
    with pytest.raises(InputError, match=advice) as caught:
        publish_one()
    assert str(caught.value).startswith(f"MLflow at sqlite:///{moved}/mlflow.db: ")
    assert capfd.readouterr().err == ""
    assert (moved / "mlflow.db").read_bytes() == content


@pytest.mark.parametrize("kind", ["EXCLUSIVE", "IMMEDIATE"])
def test_a_database_that_another_program_holds_is_one_message(folder, kind, capfd):
    publish_one()
    with (
        locked(folder / "mlflow.db", kind),
        pytest.raises(InputError, match="is locked\nClose the program that holds it"),
    ):
        publish_one("another")
    assert capfd.readouterr().err == ""
    publish_one("another")


def test_another_programs_database_is_left_alone(folder):
    (folder / "mlflow.db").unlink()
    execute(folder / "mlflow.db", "CREATE TABLE mine (a)", "INSERT INTO mine VALUES (1)")
    with pytest.raises(InputError, match="got tables mine, expected a database of MLflow"):
        publish_one()
    execute(folder / "mlflow.db", "INSERT INTO mine VALUES (2)")


@pytest.mark.parametrize(
    "rows",
    [
        ("CREATE TABLE experiments (name)", "INSERT INTO experiments VALUES ('mine')"),
        ("CREATE TABLE experiments (a)", "INSERT INTO experiments VALUES (1)"),
        ("CREATE TABLE experiments (name)", "CREATE TABLE n (a)", "INSERT INTO n VALUES (1)"),
    ],
)
def test_another_programs_tables_with_names_of_mlflows_are_left_alone(rows, folder):
    (folder / "mlflow.db").unlink()
    execute(folder / "mlflow.db", *rows)
    before = (folder / "mlflow.db").read_bytes()
    with pytest.raises(InputError, match="Move it away"):
        publish_one()
    assert (folder / "mlflow.db").read_bytes() == before


ADDRESSES = {
    "postgresql://us3r:s3cr3t@127.0.0.1:9/x?token=t0k3n": "Install the database's driver",
    "mysql+pymysql://us3r:s3cr3t@127.0.0.1/x": "Install the database's driver",
    "nonsense://us3r:s3cr3t@nowhere": "such as sqlite:////home/me/mlflow.db",
    "./mlruns": "such as sqlite:////home/me/mlflow.db",
    "http://us3r:s3cr3t@[bad": "such as sqlite:////home/me/mlflow.db",
    "http://us3r:s3cr3t@127.0.0.1:9/path?token=t0k3n": "Start the server",
    "http://us3r:a/s3cr3t@127.0.0.1:9": "or to a server, such as",
}


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_that_leads_nowhere_is_one_message_without_secrets(
    folder, address, monkeypatch, capfd
):
    monkeypatch.setattr(publish.time, "sleep", lambda seconds: None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    with pytest.raises(InputError, match=ADDRESSES[address]) as caught:
        publish_one()
    printed = "".join(capfd.readouterr())
    assert "Traceback" not in printed
    for secret in SECRETS:
        assert secret not in str(caught.value) + printed


def test_no_part_of_an_address_that_may_be_secret_is_shown(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t0k3n")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "p@ss")
    for uri in (
        "https://us3r:s3cr3t@host:1/a?key=kk",
        "postgresql://us3r:s3c/r3t#?@host:1/a?key=kk",
        "http://us3r@host:1/a?kk",
    ):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert store_address().endswith("://host:1/a?...")
        text = f"{uri} s3cr3t us3r kk t0k3n p@ss p%40ss"
        if "s3cr3t" not in uri:
            text = text.replace("s3cr3t", "")
        found = redact_secrets(text)
        assert not any(secret in found for secret in ("us3r", "kk", "t0k3n", "p@ss", "p%40ss"))
        assert "s3cr3t" not in found or "s3cr3t" not in uri


class Nonsense(BaseHTTPRequestHandler):
    """Answers every request with the server's `answer`: a status and a text."""

    def do_GET(self) -> None:
        status, text = self.server.answer  # type: ignore[attr-defined]
        if status is None:
            time.sleep(20 if text == "hang" else 0)
            return
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


NONSENSE = "address of an MLflow server"
ANSWERS = {
    "a page": ((200, "<html>Welcome</html>"), NONSENSE),
    "not found": ((404, "<html>404</html>"), NONSENSE),
    "garbage": ((200, '{"experiments": [{'), NONSENSE),
    "a list": ((200, "[1, 2]"), NONSENSE),
    "other JSON": ((200, '{"experiments": 5}'), NONSENSE),
    "only empty objects": ((200, "{}"), "expected an MLflow server"),
    "no access": ((401, "who are you?"), "MLFLOW_TRACKING_TOKEN"),
    "closed": ((None, ""), "Start the server"),
    "hanging": ((None, "hang"), "Start the server"),
    "down": ((503, "later"), "Start the server"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_a_server_that_answers_nonsense_is_one_message(folder, name, monkeypatch, capfd):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(publish, "RETRY_S", 1)
    answer, advice = ANSWERS[name]
    with ThreadingHTTPServer(("127.0.0.1", 0), Nonsense) as server:
        server.answer, server.daemon_threads = answer, True  # type: ignore[attr-defined]
        server.block_on_close = False
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(InputError, match=advice):
            publish_one()
        server.shutdown()
    assert capfd.readouterr().err == ""


def test_a_lock_that_is_held_too_long_is_one_message(folder):
    code = "import sys, time; from filelock import FileLock; lock = FileLock(sys.argv[1])"
    command = [sys.executable, "-c", f"{code}; lock.acquire(); print(flush=True); time.sleep(600)"]
    with subprocess.Popen([*command, "mlflow.db.lock"], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        try:
            with pytest.raises(InputError, match="Run `make track`"), store_lock(1):
                pass
        finally:
            holder.kill()
    with store_lock(1):
        pass


def test_an_unfinished_database_without_runs_is_created_again(folder):
    execute(folder / "mlflow.db", "DROP TABLE tags", "DELETE FROM alembic_version")
    publish_one()
    for content in (b"",):
        other = folder / "other"
        other.mkdir()
        (other / "mlflow.db").write_bytes(content)
        os.environ["DVC_ROOT"] = str(other)
        publish_one()


CREATE = """
import os
from heated.common.errors import exit_on_error
from heated.tracking.store import open_store, store_lock
with exit_on_error(), store_lock():
    open_store()
"""


def start_creating(folder: Path, *prefix: str) -> subprocess.Popen[str]:
    command = [*prefix, sys.executable, "-W", "ignore", "-c", CREATE]
    return subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_process_killed_while_it_creates_the_database_leaves_nothing_broken(folder):
    (folder / "mlflow.db").unlink()
    killed = 0
    for size in (1, 100_000, 300_000, 500_000):
        process = start_creating(folder)
        while process.poll() is None:
            parts = [path.stat().st_size for path in folder.glob("*.part") if path.exists()]
            if max(parts, default=0) >= size:
                process.send_signal(signal.SIGKILL)
                killed += process.wait() == -signal.SIGKILL
            time.sleep(0.01)
        assert process.stderr is not None
        assert process.stderr.read() == ""
        process.stderr.close()
    assert killed >= 2
    publish_one()
    assert {path.name for path in folder.glob("mlflow.db*")} == {"mlflow.db", "mlflow.db.lock"}


@pytest.mark.slow
def test_a_disk_that_is_full_while_the_database_is_created_is_one_message(folder):
    (folder / "mlflow.db").unlink()
    for kib in (0, 100, 400):
        limit = ("bash", "-c", f'trap "" XFSZ; ulimit -f {kib}; exec "$@"', "bash")
        process = start_creating(folder, *limit)
        _, errors = process.communicate()
        assert process.returncode == 1
        assert "MLflow at sqlite:///" in errors
        assert "Free space" in errors
        assert "Traceback" not in errors
        assert not [*folder.glob("mlflow.db*part*"), *folder.glob("mlflow.db")]
    publish_one()


NAMES = ["a b", "a#b", "a%20b", "100%", "a?b", "ä&b=c"]


@pytest.mark.parametrize("name", NAMES)
def test_a_project_in_a_folder_of_any_name_has_its_database_and_artifacts_there(
    folder, name, monkeypatch
):
    root = folder / name
    # Such as a temporary copy of DVC; at a depth of its own, since MLflow remembers addresses.
    inner = root.joinpath(*["inner"] * (1 + NAMES.index(name)))
    inner.mkdir(parents=True)
    shutil.move(folder / "mlflow.db", root)
    monkeypatch.setenv("DVC_ROOT", str(root))
    monkeypatch.chdir(inner)
    texts = {None: {"x/y.txt": "hello"}}
    run_id = publish_run(make_record("one"), HISTORIES, METRICS, draw=lambda: texts)
    client = open_store()
    assert tracked.artifacts(client, run_id) == {"x/y.txt": b"hello"}
    assert [path.name for path in folder.iterdir()] == [name]
    assert {path.name for path in root.iterdir()} == {
        *("inner", "mlartifacts", "mlflow.db", "mlflow.db.lock")
    }
