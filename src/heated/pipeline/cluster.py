"""Build every outdated run on the machines of a Ray cluster: `python -m heated.pipeline.cluster`.

A task of Ray builds the stages of one run, or of one data set before its runs. Ray decides where,
and starts a task again elsewhere if its worker dies. DVC's remote carries the results: a worker
takes stages from the run cache there, runs the others, and pushes. At the end this process pulls
all runs, and builds the stages that depend on them.
"""

import json
import os
import socket
import sys
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from tarfile import TarFile
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from dvc.repo import Repo
from dvc.repo.reproduce import plan_repro
from dvc.utils.serialize import dump_yaml, load_yaml

from heated.common.errors import InputError, run
from heated.common.io import atomic_write, load_settings, read_json
from heated.pipeline import cluster_node, run_cache, runner
from heated.pipeline.cluster_checks import (
    check_commit,
    check_nodes,
    one_driver,
    one_driver_here,
    remote_url,
)
from heated.pipeline.cluster_node import Job, git
from heated.pipeline.lock_file import LOCK, restore_lock_file
from heated.tracking.client import WORKSPACE, workspace

RETRIES = 3  # of a task whose worker died
STORE = 200 * 2**20  # bytes of Ray's object store, if Ray starts here: it has only the commit


@dataclass(frozen=True)
class Task:
    """The stages of a run, or of a data set, and the names of the tasks before it."""

    stages: Sequence[str]
    needs: frozenset[str] = frozenset()


def main(address: str, runtime_env: Path | None, **resources: float | None) -> None:
    """Build everything, and exit with a status."""
    commit, url = check_commit(), remote_url()
    with one_driver_here():
        restore_lock_file()
        if runner.dvc("repro", "--quiet", "resolve").returncode:
            sys.exit(1)
        if tasks := plan_tasks(take_from_remote(runner.outdated_stages())):
            with cluster(address, runtime_env) as ray:
                options = task_options(ray, **resources)
                job = Job(sha256(url.encode()).hexdigest()[:12], commit, environment(options))
                repository = ray.put(packed_commit())
                with one_driver(ray, job.project):
                    check_nodes(ray, repository, job)
                    entries = build(ray, tasks, options, repository, job)
            if lost := restore(entries):
                advice = "Run the same command again: it trains missing runs."
                got = f"got no files of {', '.join(sorted(lost))}, expected those just pushed"
                raise InputError(f"DVC's remote: {got}. {advice}")
            if any(not entries.keys() >= {*task.stages} for task in tasks.values()):
                sys.exit(1)
        sys.exit(runner.dvc("repro").returncode)


def take_from_remote(outdated: set[str]) -> set[str]:
    """Pull results of outdated runs that the remote has; return the stages still outdated."""
    names = [name for task in plan_tasks(outdated).values() for name in task.stages]
    found = run_cache.lock_entries_in_remote(names) if names else {}
    if entries := {name: entry for name, entry in found.items() if name in outdated}:
        print(f"DVC's remote has {len(entries)} of {len(outdated)} outdated stages.", flush=True)
        return outdated - entries.keys() | restore(entries)
    return outdated


def packed_commit() -> bytes:
    """Return a tar file of a git repository that has only the commit.

    A bundle could not be made from a shallow clone.
    """
    with TemporaryDirectory() as folder, BytesIO() as file:
        source = Path.cwd().as_uri()
        git(Path(), "clone", "--quiet", "--bare", "--depth", "1", "--no-tags", source, folder)
        with TarFile(fileobj=file, mode="w") as archive:
            archive.add(folder, ".")
        return file.getvalue()


def plan_tasks(outdated: set[str]) -> dict[str, Task]:
    """Return the tasks of the outdated runs, after those of their data sets, by name."""
    with Repo() as repo:
        stages = {stage.addressing: stage for stage in repo.index.stages}
        graph = repo.index.graph
    shared: dict[str, list[str]] = {}
    for name in runner.shared_stages([*stages]):
        shared.setdefault(runner.stage_parts(name)[1], []).append(name)
    settings = shared.pop("", [])  # stages before all data sets
    tasks = {}
    for run_stages in runner.outdated_runs(outdated, [*stages]):
        steps = plan_repro(graph, [stages[name] for name in run_stages])
        upstream = {step.addressing for step in steps}
        needs = frozenset(name for name, each in shared.items() if upstream & {*each})
        tasks[runner.stage_parts(run_stages[0])[1]] = Task(run_stages, needs)
    needed = {name for task in tasks.values() for name in task.needs}
    first = {name: Task([*settings, *each]) for name, each in shared.items() if name in needed}
    return first | tasks


@contextmanager
def cluster(address: str, runtime_env: Path | None) -> Iterator[Any]:
    """Yield Ray, connected to the cluster at an address, or started here by "local"."""
    try:
        import ray
    except ImportError as error:
        message = f"ray: got {error}, expected Ray on this machine and on every worker."
        raise InputError(f"{message} Run `pip install -e '.[cluster]'`.") from error
    local = {"object_store_memory": STORE, "include_dashboard": False} if address == "local" else {}
    env = read_json(runtime_env) if runtime_env else None
    ray.cloudpickle.register_pickle_by_value(cluster_node)
    server = urlsplit(address if "://" in address else f"//{address}")
    try:
        if server.port:  # else Ray waits for minutes
            socket.create_connection((server.hostname, server.port), timeout=10).close()
        quiet = {"log_to_driver": False, "logging_level": "ERROR"}
        ray.init(address, namespace="heated", runtime_env=env, **quiet, **local)
    except (OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        expected = "a running cluster with this version of Ray and Python"
        advice = "Start one with `ray start --head`, or name CLUSTER=local."
        raise InputError(f"{address}: got {reason!r}, expected {expected}. {advice}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def task_options(ray: Any, **given: float | None) -> dict[str, float]:
    """Return Ray's options for a run, with default values in place of None.

    Raises InputError if an option is out of range, or if no machine has enough.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    defaults: dict[str, float] = {
        "num_cpus": load_settings("machine.json")["threads"],
        "num_gpus": float(any(node.get("GPU") for node in nodes)),
        "memory": 0,
    }
    options = defaults | {k: v for k, v in given.items() if v is not None}
    for name, value in options.items():
        if value < 0 or (name == "num_gpus" and value > 1 and value % 1):
            expected = "0, a whole number, or of a GPU a share below 1"
            raise InputError(f"--{name.replace('_', '-')}: got {value:g}, expected {expected}.")
    options["memory"] = int(options["memory"] * 2**30)
    names = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}
    if not any(all(node.get(names[k], 0) >= v for k, v in options.items()) for node in nodes):
        found = json.dumps([{k: node.get(k, 0) for k in names.values()} for node in nodes])
        advice = "Name less by --num-cpus, --num-gpus or --memory."
        raise InputError(f"Ray: got machines with {found}, expected {options}. {advice}")
    return options


def environment(options: Mapping[str, float]) -> dict[str, str]:
    """Return the environment variables of tasks that are the same on all machines."""
    share = options["num_gpus"] % 1
    variables = {runner.JOBS: str(round(1 / share) if share else 1), WORKSPACE: workspace()}
    server = os.environ.get("MLFLOW_TRACKING_URI", "")
    if server.startswith("http"):
        return variables | {k: v for k, v in os.environ.items() if k.startswith("MLFLOW_")}
    return variables | {"HEATED_TRACKING": "off"}  # the stage `track` uploads runs at the end


def build(
    ray: Any, tasks: Mapping[str, Task], options: Mapping[str, float], repository: Any, job: Job
) -> dict[str, Any]:
    """Run all tasks, print a line for each that ends, and return their stages' part of dvc.lock."""
    remote = ray.remote(cluster_node.build)
    refs: dict[str, Any] = {}
    for name, task in tasks.items():
        chosen = {"max_retries": RETRIES, "name": name, **(options if task.needs else {})}
        arguments = (repository, job, name, task.stages, *(refs[need] for need in task.needs))
        refs[name] = remote.options(**chosen).remote(*arguments)
    names, failed = {ref: name for name, ref in refs.items()}, set[str]()
    entries: dict[str, Any] = {}
    for number in range(1, len(refs) + 1):
        (ref, *_), _ = ray.wait([*names], num_returns=1)
        name = names.pop(ref)
        try:
            result = ray.get(ref)
            entries |= result["lock"]
            text = summary(result)
        except ray.exceptions.RayError as error:
            text = f"failed: {getattr(error, 'cause', None) or error}"
            if blocking := tasks[name].needs & failed:
                text = f"not built, because {', '.join(blocking)} failed"
            failed.add(name)
        print(f"[{number}/{len(refs)}] {name}: {text}", flush=True)
    return entries


def restore(entries: Mapping[str, Any]) -> set[str]:
    """Add entries to dvc.lock, and pull all files; return the stages whose files are missing.

    `dvc repro --pull` would do both for one stage after the other, and write dvc.lock each time.
    """
    lock: Any = load_yaml(LOCK) if LOCK.exists() else {"schema": "2.0", "stages": {}}
    lock["stages"] |= entries
    with atomic_write(LOCK) as path:
        dump_yaml(path, lock)
    runner.dvc("pull", "--quiet", "--allow-missing")  # what later stages write is in no remote
    return runner.outdated_stages() & entries.keys()


def summary(result: Mapping[str, Any]) -> str:
    """Return a line on a task that ended.

    >>> summary({"host": "gpu1", "seconds": 61.2, "ran": ["train@digits-bn", "embed@digits-bn"]})
    'train, embed in 61 s on gpu1'
    """
    ran = [runner.stage_parts(name)[0] for name in result["ran"]]
    what = ", ".join(ran) or "restored from the remote"
    return f"{what} in {result['seconds']:.0f} s on {result['host']}"


def parser() -> ArgumentParser:
    """Return the command line's parser."""
    parser = ArgumentParser(
        "python -m heated.pipeline.cluster", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "--address", default="local", metavar="ADDRESS",
        help="auto: the cluster that runs on this machine; ray://HOST:10001; local: start one here",
    )  # fmt: skip
    parser.add_argument("--num-cpus", type=float, help="of a run; default: run.threads")
    parser.add_argument("--num-gpus", type=float, help="of a run, or a share such as 0.25")
    parser.add_argument("--memory", type=float, metavar="GIB", help="of a run")
    parser.add_argument(
        "--runtime-env", type=Path, metavar="FILE.json", help="Ray's runtime environment"
    )
    return parser


if __name__ == "__main__":
    run(main, parser())
