"""A run and its seeds, written to MLflow; what is there already is not written again."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from heated.common.errors import InputError
from heated.common.history import Row
from heated.tracking import Record, address
from heated.tracking.naming import (
    LAST,
    final_names,
    mean_points,
    seed_points,
    summary_names,
)
from heated.tracking.store import NOTE, PARENT, Store, alone, told

Summaries = Mapping[str, Mapping[str, Any]]
Histories = Mapping[int, Sequence[Row]]
Files = Mapping[str, str]  # texts by path
WAITS = (1, 2, 4, 8, 16, 32)  # seconds, for a server that is started again
T = TypeVar("T")


def publish(
    record: Record,
    histories: Histories,
    metrics: Summaries,
    *,
    status: str = "FINISHED",
    note: str = "",
    files: Mapping[int | None, Files] | None = None,
) -> str:
    """A run and its seeds in MLflow, with what is missing there added and nothing twice; returned:
    the run's id. A seed that has every epoch is FINISHED, whatever became of the others.

    metrics: {name: summary}, as in metrics.json; empty while they are not known. note: Markdown.
    files: artifacts of each seed, and under None of the run.
    """
    files = files or {}
    with alone():
        store = Store(record)
        parent = parent_run(store, histories, metrics)
        store.tag(parent, {NOTE: note} if note else {})
        store.attach(parent, files.get(None, {}))
        for seed, rows in histories.items():
            child = seed_run(store, seed, rows, metrics, parent.info.run_id)
            store.attach(child, files.get(seed, {}))
            whole = len(rows) == record["params"]["epochs"]
            store.end(child, "FINISHED" if whole else status, seconds(record, [seed]))
        store.end(parent, status, seconds(record, histories))
    return str(parent.info.run_id)


def parent_run(store: Store, histories: Histories, metrics: Summaries) -> Any:
    """A method's run, with means over the seeds once they are known. Where it has other means,
    as of fewer seeds, it is written anew: MLflow takes no point of a curve away."""
    record = store.record
    title, key = f"{record['method']} · {record['dataset']}", record["key"]
    points = mean_points(histories) if metrics else []
    run = store.run(title, key, kind="run")
    if points and store.contradicts(run, points):
        seeds = store.children(run)
        store.client.delete_run(run.info.run_id)
        run = store.run(title, key, kind="run")
        for seed in seeds:
            store.tag(seed, {PARENT: run.info.run_id})
    took = seconds(record, histories)
    store.add(run, points, seconds=took)
    store.add(run, [(summary_names(metrics), LAST)], seconds=took, revise=True)
    return run


def seed_run(store: Store, seed: int, rows: Sequence[Row], metrics: Summaries, parent: str) -> Any:
    """A seed's run under its method's."""
    record = store.record
    title = f"{record['method']} · {record['dataset']} · seed {seed}"
    key = f"{record['key']}-{seed}"
    run = store.run(title, key, kind="seed", parent=parent, seed=seed)
    took = seconds(record, [seed])
    store.add(run, seed_points(rows), seconds=took)
    store.add(run, [(final_names(metrics, seed), LAST)], seconds=took, revise=True)
    return run


def seconds(record: Record, seeds: Sequence[int] | Histories) -> float | None:
    """How long the seeds were trained; None where the record does not say, or not yet."""
    known = [record["seeds"].get(str(seed), {}).get("seconds") for seed in seeds]
    return None if None in known or not known else sum(known)


def publish_report(record: Record, files: Files, *, note: str) -> None:
    """The report on a data set as a run that has nothing else; `note`, Markdown, describes the
    experiment. record: that of any run on the data set."""
    title = f"report · {record['dataset']}"
    with alone():
        store = Store(record)
        run = store.report(title)
        store.attach(run, files)
        store.end(run, "FINISHED")
        store.note(note)


def patiently(publish: Callable[[], T]) -> T:
    """What is returned; where a server does not answer, tried again for a minute. InputError that
    says what to do."""
    for wait in WAITS if address().startswith("http") else ():
        try:
            with told():
                return publish()
        except InputError:
            time.sleep(wait)
    with told():
        return publish()
