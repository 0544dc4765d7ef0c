"""A run that is being trained, in MLflow while it goes on; whatever becomes of MLflow, it does."""

import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from heated.common.history import Row
from heated.tracking import Record, wanted
from heated.tracking.publishing import publish
from heated.tracking.store import reason


class Live:
    """A run's rows as they come, published every so many seconds, beside the training.

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
        """Add a seed's row, and publish if it is time."""
        self.histories.setdefault(seed, []).append(row)
        if self.due():
            self.published = time.monotonic()
            self.sending = self.sender.submit(self.send, "RUNNING")

    def due(self) -> bool:
        """Whether it is time to publish, and nothing is on its way."""
        idle = self.sending is None or self.sending.done()
        return idle and time.monotonic() - self.published >= self.every

    def send(self, status: str) -> None:
        """Publish what there is; a failure is told once, and made up for by what is sent later."""
        seen = {seed: list(rows) for seed, rows in list(self.histories.items())}
        try:
            publish(self.record, seen, {}, status=status)
            self.failed = False
        except Exception as error:
            if not self.failed:
                told = f"tracking failed, the stage track will make up for it: {reason(error)}"
                print(told, file=sys.stderr)
            self.failed = True

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
