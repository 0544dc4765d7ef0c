"""MLflow's store: its address, lock and creation, and errors with advice."""

import logging
import os
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from filelock import FileLock, Timeout

from heated.common.errors import InputError
from heated.common.io import project_root, remove
from heated.tracking import KEY_TAG, local_uri, sqlite_uri, tracking_uri

# The packages whose exceptions MLflow passes on, if they do not have a class of MLflow's.
LIBRARIES = ("alembic", "google", "json", "mlflow", "requests", "sqlalchemy", "sqlite3", "urllib3")
LOCK_TIMEOUT_S = 600
SETTINGS = {  # MLflow's own retries last minutes and may log the same values twice
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",  # seconds
    "MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT": "30",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "PGCONNECT_TIMEOUT": "30",
}
REBUILD = "Move it away and run `make track`, which writes all runs again."
ADVICE = {  # by a pattern in an error's message; the first that is found counts
    "is locked": "Close the program that holds it, such as a database browser. Run this again.",
    "is full|No space|disk I/O error": "Free space on its disk, and run this again.",
    "readonly|unable to open|Permission denied": "Check that its folder exists "
    "and is writable, and run this again.",
    "later MLflow": f"Install that version of MLflow. Or: {REBUILD}",
    "out-of-date database": "Copy it, run `mlflow db upgrade {address}`, and run this again.",
    "malformed|not a database|no such": REBUILD,
    "No module named": "Install the database's driver, and run this again.",
    "maintenance mode|unsupported URI|Invalid": "Set MLFLOW_TRACKING_URI to a database, "
    "such as sqlite:////home/me/mlflow.db, or to a server, such as http://localhost:5000.",
    "code 40[13]|UNAUTHENTICATED|PERMISSION_DENIED": "Set MLFLOW_TRACKING_USERNAME and "
    "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN.",
    "code 4|JSON|Failed to parse": "Set MLFLOW_TRACKING_URI to the address of an MLflow server.",
    "": "Start the server or set MLFLOW_TRACKING_URI to another one, and run this again. "
    "It adds only missing runs.",
}
# Errors of a server that starts again, or of another machine that writes at the same time.
TRANSIENT = (
    "failed with exception|code 50|too many 50|_UNAVAILABLE|INTERNAL_ERROR|ALREADY_EXISTS"
    "|(?i:unique constraint|duplicate entry)"
)


class TransientError(InputError):
    """An error that may not occur at the next try."""


@contextmanager
def wrap_mlflow_errors() -> Iterator[None]:
    """Raise errors of MLflow, its database or the connection as InputError with advice."""
    try:
        yield
    except Exception as error:
        missing_driver = isinstance(error, ModuleNotFoundError)
        if type(error).__module__.partition(".")[0] not in LIBRARIES and not missing_driver:
            raise
        raise store_error(error) from error


def store_error(error: Exception) -> InputError:
    """Return an error of the store with advice, and without secrets."""
    address, summary = store_address(), error_summary(error)
    schema = re.search(r"out-of-date database schema \(found version (\w+)", summary)
    if schema and schema[1] not in schema_versions():
        summary = f"got schema {schema[1]} of a later MLflow"
    advice = next(text for pattern, text in ADVICE.items() if re.search(pattern, summary))
    kind = TransientError if re.search(TRANSIENT, summary) else InputError
    return kind(
        f"MLflow at {address}: {summary}\n{advice.format(address=address)} "
        "HEATED_TRACKING=off runs without tracking."
    )


def error_summary(error: Exception) -> str:
    """Return an error's first line without secrets, and without SQLAlchemy's remark before it."""
    lines = re.sub(r"^\(raised as a result.*\n", "", str(error).strip()).splitlines()
    return redact_secrets(lines[0] if lines else type(error).__name__)[:500]


def store_address() -> str:
    """Return the store's address without user, password and query.

    A password may have characters that end the host in a valid address.
    """
    uri = tracking_uri()
    return uri if uri == local_uri() else re.sub("[?#].*", "?...", re.sub("//.*@", "//", uri))


def redact_secrets(text: str) -> str:
    """Remove user, password and query of the store's address, and MLflow's password and token."""
    uri = tracking_uri()
    user_info = re.match(".*?//(.*)@", uri)
    secrets = [*user_info[1].split(":", 1)] if user_info else []
    secrets += [pair.rpartition("=")[2] for pair in uri.partition("?")[2].split("&")]
    names = ("USERNAME", "PASSWORD", "TOKEN")
    secrets += [os.environ.get(f"MLFLOW_TRACKING_{name}", "") for name in names]
    forms = {form for each in secrets for form in (each, unquote(each), quote(each, safe=""))}
    text = text.replace(uri, store_address())
    for secret in sorted(filter(None, forms), key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", "...", text)
    return text


@contextmanager
def store_lock(timeout_s: float = LOCK_TIMEOUT_S) -> Iterator[None]:
    """Hold the lock of this project's writers: one at a time, so nothing is created twice."""
    path = project_root() / "mlflow.db.lock"
    lock, first = FileLock(path), min(5, timeout_s)
    try:
        try:
            lock.acquire(timeout=first)
        except Timeout:
            if timeout_s > first:
                print(f"{path}: waiting for up to {timeout_s} s for another process", flush=True)
            lock.acquire(timeout=timeout_s - first)
    except Timeout as error:
        raise InputError(
            f"{path}: another process has held this lock for {timeout_s} s. "
            "Run `make track` when it has ended."
        ) from error
    except PermissionError as error:
        advice = "Make its folder writable, or set HEATED_TRACKING=off."
        raise InputError(f"{path}: not writable. {advice}") from error
    try:
        yield
    finally:
        lock.release()


def open_store() -> Any:
    """Return MLflow's client, and create the project's database if it is missing.

    Raises InputError if the store cannot be used, or if the project moved with its database: MLflow
    keeps absolute paths, and would read and write artifacts in the former folder. The caller holds
    the lock.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    from mlflow.tracking import MlflowClient  # takes 3 to 7 seconds

    # It would print tracebacks, and the store's address.
    logging.getLogger("mlflow").setLevel(logging.CRITICAL)
    uri = tracking_uri()
    try:
        if uri.startswith("sqlite:///"):
            check_sqlite(uri)
        elif uri.startswith(("postgresql", "mysql", "mssql")):
            check_connection(uri)
        client = MlflowClient(uri)
        experiments = client.search_experiments()
    except (InputError, OSError):
        raise
    except Exception as error:  # of any type: MLflow has none for answers of other servers
        raise store_error(error) from error
    if uri == local_uri():
        check_location(client, experiments)
    return client


def check_location(client: Any, experiments: list[Any]) -> None:
    """Raise InputError if experiments with runs of ours have artifacts in another folder."""
    here = project_root().as_uri()
    for experiment in experiments:
        found = experiment.artifact_location.rpartition("/mlartifacts/")[0]
        our_runs = [experiment.experiment_id], f"tags.`{KEY_TAG}` LIKE '%'"
        if found not in ("", here) and client.search_runs(*our_runs, max_results=1):
            raise InputError(
                f"mlflow.db: got artifacts in {found}, expected {here}: the project moved. "
                "Delete mlflow.db and run `make track`."
            )


def check_connection(uri: str) -> None:
    """Connect once: MLflow would retry for minutes, and print each error with the address."""
    import sqlalchemy

    engine = sqlalchemy.create_engine(uri)
    engine.connect().close()
    engine.dispose()


def check_sqlite(uri: str) -> None:
    """Raise an error if an SQLite file is not MLflow's; create the project's if it is missing.

    A process that is killed while MLflow creates its tables leaves a file that MLflow cannot use.
    Such a file has no runs, and is created again.
    """
    is_local = uri == local_uri()
    path = Path(uri[len("sqlite:///") :].partition("?")[0])
    path = project_root() / "mlflow.db" if is_local else path
    if not path.exists():
        if is_local:
            create_database(path)
        return
    with closing(sqlite3.connect(path)) as database:
        query = "SELECT name FROM sqlite_master WHERE type = 'table'"
        tables = {str(name) for (name,) in database.execute(query)}
        is_unfinished = is_local and is_empty_store(database, tables)
        known = {"experiments", "alembic_version"} if is_unfinished else {"alembic_version"}
        if tables and not tables & known:  # MLflow would alter its tables
            found = f"got tables {', '.join(sorted(tables)[:3])}"
            raise InputError(f"{path}: {found}, expected a database of MLflow. {REBUILD}")
    if is_unfinished:
        create_database(path)


def is_empty_store(database: sqlite3.Connection, tables: set[str]) -> bool:
    """Return whether a database has only rows that MLflow makes itself, and not all its tables."""
    for table in tables - {"alembic_version", "workspaces"}:
        rows = database.execute(f'SELECT * FROM "{table}" LIMIT 2').fetchall()
        is_default = table == "experiments" and len(rows) == 1 and "Default" in rows[0]
        if rows and not is_default:
            return False
    if "alembic_version" not in tables:
        return True
    version = database.execute("SELECT version_num FROM alembic_version").fetchone()
    return version is None or version[0] in schema_versions()[1:]  # not of a later MLflow


@cache
def schema_versions() -> list[str]:
    """Return the versions of database schemas that the installed MLflow knows, newest first."""
    import mlflow
    from alembic.script import ScriptDirectory

    folder = Path(mlflow.__file__).parent / "store" / "db_migrations"
    return [script.revision for script in ScriptDirectory(str(folder)).walk_revisions()]


def create_database(path: Path) -> None:
    """Create MLflow's tables in a temporary file, and rename it. The caller holds the lock."""
    from mlflow.db import upgrade

    for part in path.parent.glob(f"{path.name}.*.part*"):  # of a killed process
        remove(part)
    temporary = path.with_name(f"{path.name}.{time.time_ns()}.part")
    try:
        upgrade.main([sqlite_uri(temporary)], standalone_mode=False)
        temporary.replace(path)
    finally:
        for part in path.parent.glob(f"{temporary.name}*"):
            remove(part)
