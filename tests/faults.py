"""Break a real build in many ways, and see that it recovers or says why: `make faults`.

    python tests/faults.py [--seed 0] [--jobs 2] [--only TEXT] [--folder FOLDER]

A small project is built once. Each case breaks a copy of it: a signal at a seeded moment, a full or
read-only disk, a damaged or missing input, a store or a server that does not work. The expected
end is "same bits" (an ordinary run afterwards gives what the undisturbed build gave) or "one error"
(status 1 and a message, without a traceback, that names the file and what to do; after the repair,
the same bits). Prints a table; the exit status is 1 if a case ends otherwise.

Stages are forks of this process, as those of `make repro` are. To fill a disk, the project is in a
small tmpfs; without the right to mount one, files may not grow beyond a few bytes.
"""

import argparse
import multiprocessing
import os
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from itertools import product
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

os.environ |= {"OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import fault_kinds as kinds  # noqa: E402
from broken_build import (  # noqa: E402
    ERROR,
    RUN,
    SAME,
    SIGNALS,
    STAGES,
    Copy,
    Reference,
    copy_project,
    load_reference,
)

from heated.pipeline.fork_server import PRELOADED  # noqa: E402


@dataclass(frozen=True)
class Case:
    """A fault, the end that is expected, and what brings it about."""

    name: str
    expected: str
    act: Callable[[Copy], str]
    disk: bool = False  # whether the copy is a file system of its own
    dvc: bool = False  # whether the copy has DVC's repository, too


INPUTS = {  # damaged inputs by stage
    "resolve": ("params.yaml", "datasets.yaml"),
    "download": ("data/resolved/sources/digits.json",),
    "split": ("data/raw/digits/digits.csv.gz", "data/resolved/packing/digits.json"),
    "tune": ("data/packed/digits/index.npz",),
    "train": (
        "data/packed/digits/index.npz",
        "data/packed/digits/images.npy",
        "data/resolved/runs/digits/hbn.json",
    ),
    "embed": (f"{RUN}/models/seed-1.safetensors", "data/packed/digits/images.npy"),
    "evaluate": (f"{RUN}/embeddings/seed-1.npz", "data/resolved/evaluation/digits.json"),
    "gradients": (f"{RUN}/models/seed-0.safetensors",),
    "report": tuple(
        f"{RUN}/{n}"
        for n in (
            "metrics.json",
            "class_scores.csv",
            "gradients.json",
            "history.csv",
            "provenance.json",
            "embeddings/seed-0.npz",
        )
    ),
    "track": ("runs/digits/ln/metrics.json", "runs/digits/ln/history.csv", "report/index.html"),
}


def all_cases() -> list[Case]:
    """Return the matrix."""
    return [*signal_cases(), *disk_cases(), *input_cases(), *store_cases(), *server_cases()]


def signal_cases() -> Iterator[Case]:
    """Yield signals to stages and to the parallel runner, and what a kill of DVC may leave."""
    for stage, number in product(STAGES, SIGNALS):
        act = partial(kinds.signalled, stage=stage, number=number)
        yield Case(f"{number.name} x {stage}", SAME, act)
    for number in SIGNALS:
        act = partial(kinds.runner, number=number)
        yield Case(f"{number.name} x parallel runner", SAME, act, dvc=True)
    expected = f"{SAME} or {ERROR}"
    yield Case("torn dvc.lock x parallel runner", expected, kinds.torn_lock, dvc=True)


def disk_cases() -> Iterator[Case]:
    """Yield full and read-only disks."""
    for stage in STAGES:
        act = partial(kinds.disk_full, stage=stage)
        yield Case(f"disk full x {stage}", ERROR, act, disk=True)
        act = partial(kinds.read_only, stage=stage)
        yield Case(f"read-only x {stage}", ERROR, act, disk=True)


def input_cases() -> Iterator[Case]:
    """Yield damaged inputs of stages, and damaged checkpoints."""
    for stage, names in INPUTS.items():
        for name, how in product(names, kinds.DAMAGES):
            if how == "missing" and stage in ("embed", "evaluate", "gradients") and "seed-" in name:
                act = partial(kinds.missing_seed, stage=stage)
                yield Case(f"missing {Path(name).name} x {stage} to report", ERROR, act)
            elif how == "missing" or not name.endswith(".html"):  # nothing parses the page
                act = partial(kinds.damaged, stage=stage, name=name, how=how)
                yield Case(f"{how} {Path(name).name} x {stage}", ERROR, act)
    for how in (*kinds.DAMAGES, "flipped bits"):
        act = partial(kinds.damaged_checkpoints, how=how)
        yield Case(f"{how} checkpoints x train", SAME, act)


def store_cases() -> Iterator[Case]:
    """Yield states of MLflow's database."""
    for state, (expected, prepare) in kinds.STORES.items():
        yield Case(f"store {state} x track", expected, partial(kinds.store, prepare=prepare))


def server_cases() -> Iterator[Case]:
    """Yield servers of MLflow, and mirrors, that do not work."""
    for kind in kinds.SERVERS:
        for stage, expected in (("track", ERROR), ("train", SAME)):
            act = partial(kinds.tracked_by, stage=stage, kind=kind)
            yield Case(f"server {kind} x {stage}", expected, act)
        if kind != "hanging":  # each read waits for minutes, as it should
            act = partial(kinds.fetched_from, kind=kind)
            yield Case(f"mirror {kind} x download", SAME, act)


@contextmanager
def file_system(folder: Path, mib: int) -> Iterator[bool]:
    """Mount a tmpfs at the folder, and yield whether that is possible."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", folder]
    mounts = (
        os.geteuid() == 0
        and not subprocess.run(command, capture_output=True, check=False).returncode
    )
    try:
        yield mounts
    finally:
        if mounts:
            subprocess.run(["umount", "--lazy", folder], check=False)


def attempt(case: Case, reference: Reference, seed: int) -> tuple[str, float]:
    """Return how a case ends, and its seconds."""
    start = time.monotonic()
    with TemporaryDirectory(prefix="case-", dir=reference.folder.parent) as parent:
        copy = Copy(Path(parent) / "project", reference, Random(f"{seed} {case.name}"))
        try:
            with file_system(copy.folder, 48) if case.disk else nullcontext() as mounted:
                copy.fills = bool(mounted)
                if "read-only" in case.name and not copy.fills:
                    return "skipped: needs the right to mount", time.monotonic() - start
                copy_project(reference, copy.folder, case.dvc)
                seen = case.act(copy)
        except Exception:  # shown in the table as another end than the expected one
            seen = f"the case fails: {traceback.format_exc()[-300:]}"
    return seen, time.monotonic() - start


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument(
        "--only", default="", help="cases whose name contains this regular expression"
    )
    parser.add_argument("--folder", help="for the undisturbed build, which is used if it is there")
    options = parser.parse_args()
    cases = [case for case in all_cases() if re.search(options.only, case.name)]
    for name in (*PRELOADED, "mlflow.tracking"):
        import_module(name)
    different = 0
    with TemporaryDirectory(prefix="heated-faults-") as temporary:
        reference = load_reference(Path(options.folder or temporary).resolve() / "reference")
        context = multiprocessing.get_context("fork")
        print("| case | expected | seen | seconds |\n|---|---|---|---|", flush=True)
        with context.Pool(options.jobs, maxtasksperchild=1) as pool:
            results = [
                (case, pool.apply_async(perform, (case.name, reference, options.seed)))
                for case in cases
            ]
            for case, result in results:
                seen, seconds = result.get()
                is_right = seen.startswith("skipped") or seen in case.expected
                different += not is_right
                mark = "" if is_right else "**differs** "
                row = f"| {case.name} | {case.expected} | {mark}{seen} | {seconds:.1f} |"
                print(row, flush=True)
    print(f"{len(cases) - different} of {len(cases)} cases end as expected.")
    return int(different > 0)


def perform(name: str, reference: Reference, seed: int) -> tuple[str, float]:
    """Attempt the case of a name: functions that are local cannot be sent to a process."""
    return attempt(next(case for case in all_cases() if case.name == name), reference, seed)


if __name__ == "__main__":
    sys.exit(main())
