"""Log a run to MLflow while it is trained. A failure of MLflow never stops the training."""

import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

from heated.common.history import Row
from heated.tracking import Record, experiment_name, is_tracking_enabled
from heated.tracking.client import DIGEST_TAG, Experiment
from heated.tracking.live_runs import mark_live, unmark_live
from heated.tracking.metric_names import seed_points
from heated.tracking.store import error_summary, store_lock

LOCK_TIMEOUT_S = 60


class LiveLogger:
    """Appends a run's rows to MLflow in a thread, at most every `interval_s` seconds.

    A context manager around the training; if that raises, the run is FAILED. The stage `track`
    uploads shorter trainings, and rows that an unreachable server missed: to import MLflow takes
    seconds, and that stage does so once for all runs.
    """

    def __init__(self, record: Record, enabled: bool, interval_s: float) -> None:
        self.record, self.enabled = record, is_tracking_enabled(enabled)
        self.interval_s = interval_s if self.enabled else float("inf")
        self.histories: dict[int, list[Row]] = {}
        self.last_upload = time.monotonic()
        self.executor = ThreadPoolExecutor(1)
        self.upload: Future[None] | None = None
        self.has_failed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self.upload is not None:
            self.close("FINISHED")
        elif kind is not None and self.enabled:
            self.close("FAILED")

    def close(self, status: str) -> None:
        """Upload the remaining rows, and wait for it."""
        self.executor.submit(self.upload_rows, status)
        self.executor.shutdown()

    def log(self, seed: int, row: Row) -> None:
        """Add a seed's row, and start an upload if one is due and none is running."""
        self.histories.setdefault(seed, []).append(row)
        idle = self.upload is None or self.upload.done()
        if idle and time.monotonic() - self.last_upload >= self.interval_s:
            self.last_upload = time.monotonic()
            self.upload = self.executor.submit(self.upload_rows, "RUNNING")

    def upload_rows(self, status: str) -> None:
        """Upload new rows. The first of several failures is printed, and the next call retries."""
        histories = {seed: list(rows) for seed, rows in list(self.histories.items())}
        try:
            with store_lock(LOCK_TIMEOUT_S):
                self.append_missing(histories, status)
            self.has_failed = False
        except Exception as error:
            if not self.has_failed:
                advice = "The stage `track` will upload missing epochs."
                print(f"Tracking failed: {error_summary(error)}. {advice}", file=sys.stderr)
            self.has_failed = True

    def append_missing(self, histories: Mapping[int, Sequence[Row]], status: str) -> None:
        """Append the rows that MLflow lacks to the incomplete run of this training's key.

        That run belongs to this training, to an interrupted one, or to an equal one that runs
        elsewhere. A seed with all epochs is FINISHED, whatever `status` says.
        """
        key, name = self.record["key"], experiment_name(self.record)
        experiment = Experiment(self.record["dataset"], name)
        client = experiment.client
        mark_live(self.record["dataset"], key, name)
        set_status = client.update_run if status == "RUNNING" else client.set_terminated
        runs = experiment.find_own(key, "run")
        incomplete = (run.info.run_id for run in runs if DIGEST_TAG not in run.data.tags)
        parent = next(incomplete, None) or experiment.create_run(self.record)
        children = experiment.find_runs(parent=parent)
        run_ids = {child.data.tags.get("seed"): child.info.run_id for child in children}
        for seed, rows in histories.items():
            run_id = run_ids.get(str(seed))
            run_id = run_id or experiment.create_run(self.record, seed, parent=parent)
            points = seed_points(seed, rows, {})
            name = next(iter(points[0][0]))  # a metric that every row has
            logged = {point.step for point in client.get_metric_history(run_id, name)}
            new = [point for point in points if point[1] not in logged]
            experiment.log_metrics(run_id, new, self.record, None)
            complete = len(logged) + len(new) == self.record["params"]["epochs"]
            if complete and (new or status != "RUNNING"):
                client.set_terminated(run_id, "FINISHED")
            elif new or status != "RUNNING":
                set_status(run_id, status)
        set_status(parent, status)
        if status != "RUNNING":
            unmark_live(key, name)
