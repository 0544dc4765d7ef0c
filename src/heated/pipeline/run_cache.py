"""The run cache of DVC's remote: the results of stages, by their inputs."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dvc.repo import Repo
from dvc.repo.reproduce import plan_repro
from dvc.stage.cache import _get_cache_hash
from dvc.stage.serialize import to_single_stage_lockfile
from dvc_objects.fs import generic

ENTRY = re.compile(r"runs/[0-9a-f]{2}/[0-9a-f]{64}/[0-9a-f]{64}")


def lock_entries_in_remote(names: Sequence[str]) -> dict[str, Any]:
    """Return the part of dvc.lock of stages, and of those before them, that the remote has.

    The files that it names need not be in the remote any more.
    """
    entries, hashes = {}, dict[str, Any]()
    with Repo() as repo:
        remote, cache = remote_odb(repo), repo.cache.legacy
        copy_entries(remote, cache, missing_entries(remote, cache))
        stages = {stage.addressing: stage for stage in repo.index.stages}
        for stage in plan_repro(repo.index.graph, [stages[name] for name in names]):
            for dep in stage.deps:
                if dep.def_path not in hashes:  # of the working copy
                    dep.save()
                    hashes[dep.def_path] = dep.hash_info
                dep.hash_info = hashes[dep.def_path]
            hashes |= {out.def_path: None for out in stage.outs}
            if all(dep.hash_info for dep in stage.deps) and (entry := newest_entry(repo, stage)):
                entries[stage.addressing] = entry
                outs = repo.stage_cache._create_stage(entry, wdir=stage.wdir).outs
                hashes |= {out.def_path: out.hash_info for out in outs}
    return entries


def newest_entry(repo: Repo, stage: Any) -> Any:
    """Return the entry of the local run cache that DVC would take, None if there is none.

    `StageCache._load` would hash all inputs in the working copy.
    """
    key = _get_cache_hash(to_single_stage_lockfile(stage), key=True)
    folder = Path(repo.stage_cache._get_cache_dir(key))
    newest = max(folder.glob("*"), key=lambda path: path.stat().st_mtime, default=None)
    return newest and repo.stage_cache._load_cache(key, newest.name)


def remote_odb(repo: Repo) -> Any:
    """Return the default remote's part that has the run cache."""
    return repo.cloud.get_remote_odb(None, "push", hash_name="md5-dos2unix")


def missing_entries(source: Any, target: Any) -> list[str]:
    """Return the entries of the run cache in `source` that `target` lacks."""
    names: list[set[str]] = []
    for odb in (source, target):
        files = odb.fs.find(odb.fs.join(odb.path, "runs"))
        found = (odb.fs.as_posix(odb.fs.relpath(file, odb.path)) for file in files)
        names.append({name for name in found if ENTRY.fullmatch(name)})
    return sorted(names[0] - names[1])


def copy_entries(source: Any, target: Any, names: Sequence[str]) -> list[tuple[str, ...]]:
    """Copy entries of the run cache; return the key and the name of each, as DVC does."""
    if names:
        paths = [[odb.fs.join(odb.path, *n.split("/")) for n in names] for odb in (source, target)]
        generic.copy(source.fs, paths[0], target.fs, paths[1])
    return [tuple(name.split("/")[-2:]) for name in names]


def copy_missing_entries(
    _: Any, source: Any, target: Any, force: bool = True
) -> list[tuple[str, ...]]:
    """Do the same as `StageCache.transfer`, which copies all entries each time.

    With DVC 3.67, each run would take longer than the one before.
    """
    return copy_entries(source, target, missing_entries(source, target))
