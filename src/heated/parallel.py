"""Runs side by side: `python -m heated.parallel JOBS` ends where `dvc repro` ends, sooner.

DVC runs one stage at a time. Runs do not depend on each other, so each job is a DVC of its own
that takes every JOBS-th run through training, embedding and evaluation; what comes before and
after all runs is DVC's own business.
"""

import json
import subprocess
import sys
from collections.abc import Iterable, Sequence

KINDS = ("tune", "train", "embed", "evaluate", "gradients")  # of a run, in their order
SHARED = ("download", "split")  # what all runs on a data set need
DVC = (sys.executable, "-m", "dvc")


def main(jobs: int) -> int:
    """The exit status: 0 when everything is up to date at the end."""
    if jobs == 1:
        return dvc("repro")
    outdated = changed()
    if not outdated:
        print("Data and pipelines are up to date.")
        return 0
    known = stages()
    if status := dvc("repro", *(name for name in known if kind(name) == "split")):
        return status
    runs = stale(outdated, known)
    shares = [sum(runs[job::jobs], []) for job in range(jobs)]
    return side_by_side([share for share in shares if share]) or dvc("repro")


def side_by_side(shares: Iterable[list[str]]) -> int:
    """The worst exit status of a DVC for each share of stages; on Ctrl-C, which they get too, all
    of them are waited for."""
    workers = [
        subprocess.Popen([*DVC, "--wait-for-lock", "repro", "--single-item", *share])
        for share in shares
    ]
    try:
        return max((worker.wait() for worker in workers), default=0)
    finally:
        for worker in workers:
            worker.wait()


def dvc(*arguments: str) -> int:
    """DVC's exit status."""
    return subprocess.call([*DVC, *arguments])


def answer(*arguments: str) -> str:
    """What DVC prints; CalledProcessError when it fails, which has then said why."""
    return subprocess.run([*DVC, *arguments], stdout=subprocess.PIPE, text=True, check=True).stdout


def changed() -> set[str]:
    """Names of the stages whose inputs, outputs or parameters are not those of their last run."""
    return set(json.loads(answer("status", "--json")))


def stages() -> list[str]:
    """Names of all stages, in the order of dvc.yaml."""
    return answer("stage", "list", "--name-only").split()


def stale(outdated: set[str], stages: Iterable[str]) -> list[list[str]]:
    """The stages of each run that is out of date, or whose data are, in the order they depend on
    each other.

    >>> stale({"train@digits-bn"}, ["train@digits-bn", "train@digits-ln", "embed@digits-bn"])
    [['train@digits-bn', 'embed@digits-bn']]
    >>> stale({"split@digits"}, ["train-shapes@digits-hbn-linear", "train@omniglot-small-bn"])
    [['train-shapes@digits-hbn-linear']]
    """
    runs: dict[str, list[str]] = {}
    for name in sorted((name for name in stages if kind(name) in KINDS), key=order):
        runs.setdefault(item(name), []).append(name)
    data = tuple(f"{item(name)}-" for name in outdated if kind(name) in SHARED)
    return [names for run, names in runs.items() if outdated & set(names) or run.startswith(data)]


def kind(stage: str) -> str:
    """What a stage does, whichever study it belongs to.

    >>> kind("train-shapes@digits-hbn-linear")
    'train'
    """
    return stage.partition("@")[0].partition("-")[0]


def item(stage: str) -> str:
    """What a stage does it for: the data set, with the method where there is one."""
    return stage.partition("@")[2]


def order(stage: str) -> int:
    """Where a stage's kind comes in a run."""
    return KINDS.index(kind(stage))


def parsed(arguments: Sequence[str]) -> int:
    """The number of jobs on the command line; SystemExit when it is none."""
    if len(arguments) != 1 or not arguments[0].isdigit() or int(arguments[0]) < 1:
        sys.exit(f"came {' '.join(arguments) or 'nothing'}; allowed: a number of jobs from 1")
    return int(arguments[0])


if __name__ == "__main__":
    try:
        sys.exit(main(parsed(sys.argv[1:])))
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
    except KeyboardInterrupt:
        sys.exit(130)
