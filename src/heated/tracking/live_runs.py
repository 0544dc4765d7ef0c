"""Runs in MLflow that a training of this project follows, and those whose process was killed.

Each has a file, with the process that follows it, in the folder `mlflow.db.live`.
`python -m heated.tracking.live_runs` closes runs whose process has ended.
"""

import platform
import sys
from contextlib import suppress
from pathlib import Path

import psutil

from heated.common.errors import InputError
from heated.common.io import project_root, read_json, write_json
from heated.tracking import is_tracking_enabled, tracking_uri
from heated.tracking.client import Experiment, content_digest
from heated.tracking.store import store_lock, wrap_mlflow_errors


def live_file(key: str, name: str) -> Path:
    """Return the file of a training's run in a DVC experiment, "" outside one."""
    return project_root() / "mlflow.db.live" / f"{content_digest([key, name])[:24]}.json"


def mark_live(dataset: str, key: str, name: str) -> None:
    """Record that this process follows a run."""
    process = psutil.Process()
    run = {"dataset": dataset, "key": key, "name": name, "store": content_digest(tracking_uri())}
    at = {"machine": machine(), "pid": process.pid, "started": process.create_time()}
    write_json(live_file(key, name), {**run, **at})


def unmark_live(key: str, name: str) -> None:
    """Record that no process follows a run."""
    live_file(key, name).unlink(missing_ok=True)


def machine() -> list[str]:
    """Return the scope of process ids: a host, and a container on it."""
    namespace = Path("/proc/self/ns/pid")
    return [platform.node(), str(namespace.readlink()) if namespace.is_symlink() else ""]


def close_dead_runs() -> None:
    """Set runs to KILLED that processes followed which were killed on this machine."""
    for path in sorted((project_root() / "mlflow.db.live").glob("*.json")):
        with store_lock():
            mark = read_json(path)
            same_store = mark["store"] == content_digest(tracking_uri())
            if mark["machine"] != machine() or not same_store:
                continue
            with suppress(psutil.NoSuchProcess):
                if abs(psutil.Process(mark["pid"]).create_time() - mark["started"]) < 1:
                    continue
            experiment = Experiment(mark["dataset"], mark["name"])
            for run in experiment.find_own(mark["key"], "run"):
                for each in (run, *experiment.find_runs(parent=run.info.run_id)):
                    if each.info.status == "RUNNING" and experiment.is_own(each):
                        experiment.client.set_terminated(each.info.run_id, "KILLED")
            path.unlink()


def main() -> None:
    """Close runs before a build, which an error of MLflow does not stop."""
    try:
        with wrap_mlflow_errors():
            close_dead_runs()
    except InputError as error:
        print(error, file=sys.stderr)


if __name__ == "__main__" and is_tracking_enabled(True):
    main()
