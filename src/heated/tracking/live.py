"""A run that is being trained, in MLflow while it goes on; whatever becomes of MLflow, it does."""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from heated.common.history import Row
from heated.tracking import Record, wanted
from heated.tracking.naming import seed_points
from heated.tracking.store import DIGEST, Store, alone, reason


class Live:
    """Appends a run's rows to MLflow, every so many seconds, beside the training.

    A training shorter than that is left to the stage `track`, which publishes all runs in one
    process: MLflow takes seconds to start. So is what a server that is away does not get.
    """

    def __init__(self, record: Record, *, every: float) -> None:
        self.record, self.every = record, every
        self.histories: dict[int, list[Row]] = {}
        self.published = time.monotonic()
        self.sender = ThreadPoolExecutor(1)
        self.sending: Future[None] | None = None
        self.failed = False

    def log(self, seed: int, row: Row) -> None:
        """Add a seed's row, and publish if it is time and nothing is on its way."""
        self.histories.setdefault(seed, []).append(row)
        idle = self.sending is None or self.sending.done()
        if idle and time.monotonic() - self.published >= self.every:
            self.published = time.monotonic()
            self.sending = self.sender.submit(self.send, "RUNNING")

    def send(self, status: str) -> None:
        """Publish what is new. A failure is told once; the next time sends what did not arrive."""
        seen = {seed: list(rows) for seed, rows in list(self.histories.items())}
        try:
            with alone():
                self.append(seen, status)
            self.failed = False
        except Exception as error:
            if not self.failed:
                told = f"tracking failed, the stage track will make up for it: {reason(error)}"
                print(told, file=sys.stderr)
            self.failed = True

    def append(self, histories: Mapping[int, Sequence[Row]], status: str) -> None:
        """Add the rows that MLflow lacks to the run that is not whole: this training's own, that of
        one that was cut off, or of an equal one that goes on elsewhere. A seed that has every epoch
        is FINISHED, whatever becomes of the others."""
        store, key = Store(self.record["dataset"]), self.record["key"]
        found = store.find(key=key, kind="run")
        begun = (run.info.run_id for run in found if DIGEST not in run.data.tags)
        parent = next(begun, None) or store.create(self.record)
        below = {run.data.tags.get("seed"): run.info.run_id for run in store.find(parent=parent)}
        for seed, rows in histories.items():
            run = below.get(str(seed)) or store.create(self.record, seed, parent=parent)
            points = seed_points(rows)
            name = next(iter(points[0][0]))  # of a column that every row has
            there = {point.step for point in store.client.get_metric_history(run, name)}
            new = [point for point in points if point[1] not in there]
            store.log(run, new, self.record, None)
            whole = len(there) + len(new) == self.record["params"]["epochs"]
            if new or status != "RUNNING":
                store.set_status(run, "FINISHED" if whole else status)
        store.set_status(parent, status)

    def end(self, status: str) -> None:
        """Publish the rest, after what is on its way."""
        self.sender.submit(self.send, status)
        self.sender.shutdown()


@contextmanager
def live(record: Record, enabled: bool, every: float) -> Iterator[Live]:
    """A logger for a run being trained; one that fails is published as FAILED."""
    run = Live(record, every=every if wanted(enabled) else float("inf"))
    try:
        yield run
    except BaseException:
        if wanted(enabled):
            run.end("FAILED")
        raise
    if run.sending is not None:
        run.end("FINISHED")
