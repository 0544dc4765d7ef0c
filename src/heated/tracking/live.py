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
        self.parent = ""  # the method's run in MLflow
        self.children: dict[int, str] = {}  # the seeds' runs
        self.sent: dict[int, int] = {}  # how many rows of each seed MLflow has

    def log(self, seed: int, row: Row) -> None:
        """Add a seed's row, and publish if it is time and nothing is on its way."""
        self.histories.setdefault(seed, []).append(row)
        idle = self.sending is None or self.sending.done()
        if idle and time.monotonic() - self.published >= self.every:
            self.published = time.monotonic()
            self.sending = self.sender.submit(self.send, "RUNNING")

    def send(self, status: str) -> None:
        """Publish what is new. A failure is told once; as nobody knows how much arrived, the next
        time writes the run from its first row."""
        seen = {seed: list(rows) for seed, rows in list(self.histories.items())}
        try:
            with alone():
                self.append(seen, status)
            self.failed = False
        except Exception as error:
            if not self.failed:
                told = f"tracking failed, the stage track will make up for it: {reason(error)}"
                print(told, file=sys.stderr)
            self.failed, self.parent = True, ""

    def append(self, histories: Mapping[int, Sequence[Row]], status: str) -> None:
        """Add the rows that MLflow lacks. A seed that has every epoch is FINISHED, whatever becomes
        of the others."""
        store = Store(self.record["dataset"])
        if not self.parent:
            self.children, self.sent = {}, {}
            found = store.find(key=self.record["key"], kind="run")
            cut_off = [run for run in found if DIGEST not in run.data.tags]
            self.parent = store.create(self.record, former=cut_off)
            for run in cut_off:
                store.delete(run)
        for seed, rows in histories.items():
            if seed not in self.children:
                self.children[seed] = store.create(self.record, seed, parent=self.parent)
            new = rows[self.sent.get(seed, 0) :]
            store.log(self.children[seed], seed_points(new), self.record, None)
            self.sent[seed] = len(rows)
            whole = len(rows) == self.record["params"]["epochs"]
            if (whole and new) or status != "RUNNING":
                store.client.set_terminated(self.children[seed], "FINISHED" if whole else status)
        if status != "RUNNING":
            store.client.set_terminated(self.parent, status)

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
