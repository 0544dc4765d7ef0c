"""A store that was moved or copied with its project: MLflow writes down where artifacts lie with
the whole path, and would look for them, and put new ones, where the project was."""

import sqlite3
from contextlib import closing
from pathlib import Path

ARTIFACTS = "mlartifacts"
PATHS = {  # of MLflow's tables, the columns that hold such paths
    "experiments": ("artifact_location",),
    "runs": ("artifact_uri",),
    "logged_models": ("artifact_location",),
    "model_versions": ("source", "storage_location"),
}


def settle(database: Path, folder: Path) -> None:
    """Make the paths in a store those of the project's folder, if it has others."""
    if not database.exists():
        return
    with closing(sqlite3.connect(database, timeout=60)) as store, store:
        for former in sorted(homes(store) - {folder.as_uri()}):
            for table, columns in PATHS.items():
                for column in columns:
                    rename(store, (table, column), former, folder.as_uri())


def homes(store: sqlite3.Connection) -> set[str]:
    """The folders, as addresses, that the store takes for its project's."""
    if not store.execute("select 1 from sqlite_master where name = 'experiments'").fetchone():
        return set()  # it is being made
    found = store.execute(
        f"select artifact_location from experiments where artifact_location like '%/{ARTIFACTS}/%'"
    )
    return {location.rpartition(f"/{ARTIFACTS}/")[0] for (location,) in found}


def rename(store: sqlite3.Connection, place: tuple[str, str], former: str, now: str) -> None:
    """Let what lay in one folder's artifacts lie in another's."""
    table, column = place
    old, new = f"{former}/{ARTIFACTS}/", f"{now}/{ARTIFACTS}/"
    store.execute(
        f"update {table} set {column} = ? || substr({column}, ?) where substr({column}, 1, ?) = ?",
        (new, len(old) + 1, len(old), old),
    )
