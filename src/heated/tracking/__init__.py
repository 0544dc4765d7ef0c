"""MLflow, in this folder only: what a run was and gave; to write it again adds nothing.

An experiment a data set, a parent run a method, a child run a seed. Runs are found by their key,
so equal training is one run in MLflow, however often and wherever it is published from.
`python -m heated.tracking` opens the pages.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from filelock import FileLock

from heated.files import project_root
from heated.history import Row

KEY, KIND = "heated.key", "heated.kind"
UNSEEN = ("recall_at_1", "compactness", "spread")  # of a history's columns: on the test classes
Record = dict[str, Any]  # a run's provenance
Values = dict[str, float | None]
Log = Callable[[int], Callable[[Row], None]]


def wanted(enabled: bool) -> bool:
    """Whether to track: the parameter, unless HEATED_TRACKING=off."""
    return enabled and os.environ.get("HEATED_TRACKING", "on").lower() not in ("off", "0", "false")


def address() -> str:
    """MLFLOW_TRACKING_URI where it is set, else a database in the project's folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{project_root()}/mlflow.db"


class Live:
    """A run being trained: its rows as they come, published every so many seconds.

    A training shorter than that is left to the stage `track`, which publishes all runs in one
    process: MLflow takes seconds to start.
    """

    def __init__(self, record: Record, *, every: float) -> None:
        self.record, self.every = record, every
        self.histories: dict[int, list[Row]] = {}
        self.published = time.monotonic()
        self.sent = False

    def seed(self, seed: int) -> Callable[[Row], None]:
        """A logger for the rows of one seed."""
        rows = self.histories.setdefault(seed, [])

        def add(row: Row) -> None:
            rows.append(row)
            if time.monotonic() - self.published >= self.every:
                self.send("RUNNING")

        return add

    def send(self, status: str) -> None:
        """Publish what there is; training goes on, whatever becomes of its tracking."""
        try:
            publish(self.record, self.histories, {}, status=status)
        except Exception as error:
            print(f"tracking failed, the stage track will make up for it: {error}", file=sys.stderr)
        self.published, self.sent = time.monotonic(), True


@contextmanager
def live(record: Record, enabled: bool, every: float) -> Iterator[Log]:
    """`log(seed)(row)` for a run being trained; one that fails is published as FAILED."""
    run = Live(record, every=every if wanted(enabled) else float("inf"))
    try:
        yield run.seed
    except BaseException:
        if wanted(enabled):
            run.send("FAILED")
        raise
    if run.sent:
        run.send("FINISHED")


def publish(
    record: Record,
    histories: Mapping[int, Sequence[Row]],
    metrics: Mapping[str, Mapping[str, Any]],
    *,
    status: str = "FINISHED",
) -> str:
    """A run and its seeds in MLflow, with what is missing there added and nothing twice; returned:
    the run's id. A seed that has every epoch is FINISHED, whatever became of the others.

    metrics: {name: summary}, as in metrics.json; empty while they are not known.
    """
    store = Store(record)
    name, dataset = record["method"], record["dataset"]
    parent = store.run(f"{name} · {dataset}", record["key"], kind="run", parent=None)
    for seed, rows in histories.items():
        title = f"{name} · {dataset} · seed {seed}"
        child = store.run(title, f"{record['key']}-{seed}", kind="seed", parent=parent, seed=seed)
        last = int(rows[-1]["epoch"]) if rows else 0
        final = {metric: values["seeds"].get(str(seed)) for metric, values in metrics.items()}
        store.add(child, [(row_names(row), int(row["epoch"])) for row in rows])
        store.add(child, [(final, last)], revise=True)
        whole = len(rows) == record["params"]["epochs"]
        store.end(child, "FINISHED" if whole else status)
    store.add(parent, [(summary_names(metrics), 0)], revise=True)
    store.end(parent, status)
    return parent


def row_names(row: Row) -> Values:
    """A history's row with MLflow's names: of the unseen classes under `unseen/`."""
    named: Values = {f"unseen/{k}" if k in UNSEEN else k: v for k, v in row.items()}
    return {name: value for name, value in named.items() if name != "epoch"}


def summary_names(metrics: Mapping[str, Mapping[str, Any]]) -> Values:
    """Mean under the metric's own name, the interval's ends and n beside it."""
    named: Values = {}
    for name, summary in metrics.items():
        low, high = summary["interval"] or (None, None)
        named |= {name: summary["mean"], f"{name}_low": low, f"{name}_high": high}
        named["n"] = summary["n"]
    return named


def flat(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping with dotted keys: {"alpha": {"end": 4}} -> {"alpha.end": 4}."""
    pairs: dict[str, Any] = {}
    for key, value in mapping.items():
        inner = isinstance(value, Mapping)
        pairs |= flat(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return pairs


class Store:
    """The tracking store, as far as one run needs it."""

    def __init__(self, record: Record) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow.tracking import MlflowClient  # 3 to 7 seconds: only where a run is published

        self.record = record
        local = address().startswith("sqlite:")
        with FileLock(project_root() / "mlflow.db.lock"):  # two processes that create it crash one
            self.client = MlflowClient(address())
            known = self.client.get_experiment_by_name(record["dataset"])
            folder = project_root() / "mlartifacts" / record["dataset"]
            self.experiment = (
                known.experiment_id
                if known
                else self.client.create_experiment(
                    record["dataset"], artifact_location=folder.as_uri() if local else None
                )
            )

    def run(
        self, title: str, key: str, *, kind: str, parent: str | None, seed: int | None = None
    ) -> str:
        """The id of the run with this key; created, with its parameters, where there is none."""
        found = self.client.search_runs(
            [self.experiment], f"tags.`{KEY}` = '{key}' and tags.`{KIND}` = '{kind}'"
        )
        if found:
            return str(found[0].info.run_id)
        tags = {
            KEY: key,
            KIND: kind,
            **({"mlflow.parentRunId": parent} if parent else {}),
            **{k: str(self.record[k]) for k in ("dataset", "method")},
            **({"experiment": name} if (name := self.record["source"].get("experiment")) else {}),
            **{f"source.{k}": str(v) for k, v in self.record["source"].items() if v is not None},
            **{f"environment.{k}": str(v) for k, v in self.record["environment"].items()},
        }
        params = flat(self.record["params"]) | ({} if seed is None else {"seed": seed})
        run_id = self.client.create_run(self.experiment, tags=tags, run_name=title).info.run_id
        self.describe(run_id, params)
        return str(run_id)

    def describe(self, run_id: str, params: Mapping[str, Any]) -> None:
        """The run's parameters, and the data set with its digest."""
        from mlflow.entities import Dataset, DatasetInput, Param

        self.client.log_batch(run_id, params=[Param(k, str(v)) for k, v in params.items()])
        name, digest = self.record["dataset"], self.record["data_sha256"]
        source = Dataset(name=name, digest=digest[:36], source_type="dvc", source=name)
        self.client.log_inputs(run_id, [DatasetInput(source)])

    def add(
        self, run_id: str, points: Sequence[tuple[Values, int]], *, revise: bool = False
    ) -> None:
        """Metrics at their steps. Where there is a value already it stays, or, to `revise`, a
        different one is added, which MLflow then takes for the latest."""
        from mlflow.entities import Metric

        known = {
            (name, point.step): point.value
            for name in {name for values, _ in points for name in values}
            for point in self.client.get_metric_history(run_id, name)
        }
        now = int(time.time() * 1000)
        new = [
            Metric(name, value, now, step)
            for values, step in points
            for name, value in values.items()
            if value is not None
            and ((name, step) not in known or (revise and known[name, step] != value))
        ]
        for start in range(0, len(new), 1000):  # MLflow takes so many at once
            self.client.log_batch(run_id, metrics=new[start : start + 1000])

    def end(self, run_id: str, status: str) -> None:
        """The run's status, where it is another."""
        if self.client.get_run(run_id).info.status != status:
            if status == "RUNNING":
                self.client.update_run(run_id, status)
            else:
                self.client.set_terminated(run_id, status)
