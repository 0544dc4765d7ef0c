"""Build every outdated run on the machines of a Ray cluster: `python -m stages.cluster`.

A task of Ray builds the stages of one run, or of one data set before its runs. Ray decides where,
and starts a task again elsewhere if its worker dies. DVC's remote carries the results: a worker
takes stages from the run cache there, runs the others, and pushes. At the end this process pulls
all runs, and builds the stages that depend on them.
"""

import json
import os
import secrets
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
from filelock import FileLock, Timeout

from heated.common.errors import InputError, run
from heated.common.io import atomic_write, load_settings, read_json
from heated.tracking.client import WORKSPACE, workspace
from stages import __main__ as runner
from stages import cluster_node
from stages.cluster_node import Job, git

RESULTS = ("dvc.lock", "metrics.json")  # written by stages, so that changes in them do not count
RETRIES = 3  # of a task whose worker died
STORE = 200 * 2**20  # bytes of Ray's object store, if Ray starts here: it has only the commit
SECOND_DRIVER = "Wait until it ends: a run is trained once, whoever asks for it first."


@dataclass(frozen=True)
class Task:
    """The stages of a run, or of a data set, and the names of the tasks before it."""

    stages: Sequence[str]
    needs: frozenset[str] = frozenset()


def main(address: str, runtime_env: Path | None, **resources: float | None) -> None:
    """Build everything, and exit with a status."""
    commit, url = check_commit(), remote_url()
    with one_driver_here():
        runner.restore_lock_file()
        if runner.dvc("repro", "--quiet", "resolve").returncode:
            sys.exit(1)
        if tasks := plan_tasks(runner.outdated_stages()):
            with cluster(address, runtime_env) as ray:
                options = task_options(ray, **resources)
                job = Job(sha256(url.encode()).hexdigest()[:12], commit, environment(options))
                repository = ray.put(packed_commit())
                with one_driver(ray, job.project):
                    check_nodes(ray, repository, job)
                    entries = build(ray, tasks, options, repository, job)
            restore(entries)
            if any(not entries.keys() >= {*task.stages} for task in tasks.values()):
                sys.exit(1)
        sys.exit(runner.dvc("repro").returncode)


def check_commit() -> str:
    """Return the commit that workers build; raise InputError if the working copy differs."""
    try:
        excluded = [f":(exclude){name}" for name in RESULTS]
        changes = git(Path(), "status", "--porcelain", "--", ".", *excluded)
        commit = git(Path(), "rev-parse", "HEAD")
    except (OSError, RuntimeError) as error:
        raise InputError(f"git: got {error}, expected a commit for the workers.") from error
    if changes:
        files = ", ".join(line.split()[-1] for line in changes.splitlines())
        advice = "Commit them (`git add`, `git commit`): workers build the commit."
        raise InputError(f"git: got uncommitted changes in {files}, expected none. {advice}")
    return commit


def remote_url() -> str:
    """Return the address of DVC's default remote, or raise InputError if there is none."""
    with Repo() as repo:
        name = repo.config["core"].get("remote")
        url = repo.config["remote"].get(name, {}).get("url")
    if not url:
        advice = "Run `dvc remote add --default storage s3://...` and commit .dvc/config."
        raise InputError(f".dvc/config: got no default remote, expected one. {advice}")
    return str(url)


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
def one_driver_here() -> Iterator[None]:
    """Raise InputError while another driver runs in this folder."""
    path = Path(".dvc/tmp/cluster.lock")
    path.parent.mkdir(exist_ok=True)
    try:
        with FileLock(path, timeout=0):
            yield
    except Timeout as error:
        message = f"{path}: got a second driver in this folder, expected one."
        raise InputError(f"{message} {SECOND_DRIVER}") from error


@contextmanager
def one_driver(ray: Any, project: str) -> Iterator[None]:
    """Raise InputError while another driver with the same remote runs on the cluster.

    The first one has an actor, which ends with it, by SIGKILL too.
    """
    try:
        name = f"driver-{project}"
        actor = ray.remote(num_cpus=0)(cluster_node.Driver).options(name=name).remote()
        ray.get(actor.host.remote())
    except (ValueError, ray.exceptions.RayError) as error:
        message = "Ray: got a second driver with this DVC remote, expected one."
        raise InputError(f"{message} {SECOND_DRIVER}") from error
    yield


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

    Raises InputError if no machine has enough.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    defaults: dict[str, float] = {
        "num_cpus": load_settings("machine.json")["threads"],
        "num_gpus": float(any(node.get("GPU") for node in nodes)),
        "memory": 0,
    }
    options = defaults | {k: v for k, v in given.items() if v is not None}
    options["memory"] = int(options["memory"] * 2**30)
    names = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}
    if not any(all(node.get(names[k], 0) >= v for k, v in options.items()) for node in nodes):
        found = json.dumps([{k: node.get(k, 0) for k in names.values()} for node in nodes])
        raise InputError(f"cluster: got machines with {found}, expected one with {options}.")
    return options


def environment(options: Mapping[str, float]) -> dict[str, str]:
    """Return the environment variables of tasks that are the same on all machines."""
    share = options["num_gpus"] % 1
    variables = {runner.JOBS: str(round(1 / share) if share else 1), WORKSPACE: workspace()}
    server = os.environ.get("MLFLOW_TRACKING_URI", "")
    if server.startswith("http"):
        return variables | {k: v for k, v in os.environ.items() if k.startswith("MLFLOW_")}
    return variables | {"HEATED_TRACKING": "off"}  # the stage `track` uploads runs at the end


def check_nodes(ray: Any, repository: Any, job: Job) -> None:
    """Raise InputError with all reasons why nodes cannot build the commit with this remote."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    with Repo() as repo:
        remote = repo.cloud.get_remote()
    token = f"heated-{secrets.token_hex(8)}"
    path = remote.fs.join(remote.path, token)
    try:
        remote.fs.makedirs(remote.path)
        remote.fs.pipe_file(path, b"")
    except Exception as error:
        raise InputError(f"{remote.path}: got {error!r}, expected a remote to write.") from error
    checks = {}
    for node in (node for node in ray.nodes() if node["Alive"]):
        strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        check = ray.remote(num_cpus=0, scheduling_strategy=strategy)(cluster_node.check)
        checks[node["NodeManagerAddress"], node["NodeID"][:8]] = check.remote(
            repository, job, token
        )
    try:
        reasons = [(node, ray.get(check)) for node, check in checks.items()]
    finally:
        remote.fs.rm_file(path)
    messages = [f"worker {host} ({node}): {why}" for (host, node), why in reasons if why]
    if messages:
        advice = "Each worker needs git, this project's environment and access to the DVC remote."
        raise InputError("\n".join([*messages, advice]))


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


def restore(entries: Mapping[str, Any]) -> None:
    """Add entries to dvc.lock, and pull all files; raise InputError if the remote lacks some.

    `dvc repro --pull` would do both for one stage after the other, and write dvc.lock each time.
    """
    lock: Any = load_yaml(runner.LOCK) if runner.LOCK.exists() else {"schema": "2.0", "stages": {}}
    lock["stages"] |= entries
    with atomic_write(runner.LOCK) as path:
        dump_yaml(path, lock)
    runner.dvc("pull", "--quiet", "--allow-missing")  # what later stages write is in no remote
    if lost := sorted(runner.outdated_stages() & entries.keys()):
        advice = "Run the same command again: it trains missing runs."
        raise InputError(f"DVC's remote: got no files of {', '.join(lost)}. {advice}")


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
    parser = ArgumentParser("python -m stages.cluster", description=(__doc__ or "").split("\n")[0])
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
