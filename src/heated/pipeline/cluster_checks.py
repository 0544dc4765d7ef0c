"""Raise InputError before anything is trained, if a cluster cannot build this commit."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dvc.repo import Repo
from filelock import FileLock, Timeout

from heated.common.errors import InputError
from heated.pipeline import cluster_node
from heated.pipeline.cluster_node import Job, git

RESULTS = ("dvc.lock", "metrics")  # written by stages, so that changes in them do not count
SECOND_DRIVER = "Wait until it ends: a run is trained once, whoever asks for it first."


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
        name = f"worker {node['NodeManagerAddress']} ({node['NodeID'][:8]})"
        checks[name] = check.remote(repository, job, token)
    messages = []
    try:
        for name, check in checks.items():
            try:
                reason = ray.get(check)
            except ray.exceptions.RayError as error:
                reason = str(error)
            if reason:
                messages.append(f"{name}: {reason}")
    finally:
        remote.fs.rm_file(path)
    if messages:
        advice = "Each worker needs git, this project's environment and access to the DVC remote."
        raise InputError("\n".join([*messages, advice]))
