"""A data set's runs, and the report on them, in MLflow, from the files that the stages left.

A run's last tag is a digest of its content. A run of the same digest is left alone; else it is
written anew, and the former one is deleted.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from heated import reporting
from heated.common.errors import InputError
from heated.common.history import Row, add_system_metrics
from heated.common.io import sha256
from heated.reporting.paper import paper_value
from heated.reporting.results import Result
from heated.tracking import Record, Trained, address, describing, files, naming
from heated.tracking.store import DIGEST, NOTE, TAGS, Store, alone, digest, ended, told

Summaries = Mapping[str, Mapping[str, Any]]
Files = Mapping[int | None, Mapping[str, str]]  # texts by path, of each seed and of the run
SHARED = ("dataset", "recipe")  # tags of all runs on a data set
WAITS = (1, 2, 4, 8, 16, 32)  # seconds, for a server that is started again
T = TypeVar("T")


def track(
    results: Sequence[Result],
    section: Mapping[str, Any],
    tags: Mapping[str, Mapping[str, str]],
    report: Path,
) -> list[Trained]:
    """Publish all runs on a data set and the report; return the runs as they are in MLflow.

    section: the data set's in params.yaml. tags: those of each method. report: its folder.
    """
    trained, papers = [], {}
    for result in results:
        record, metrics = result.record | {"tags": tags[result.method]}, result.metrics
        values = {name: paper_value(record, section, name) for name in metrics}
        paper = {name: value for name, value in values.items() if value is not None}
        write = partial(
            publish,
            record,
            add_system_metrics(result.history, record.get("usage", {})),
            metrics,
            note=describing.run_note(record, metrics, paper),
            files=partial(files.of_run, result),
        )
        trained.append(Trained(record, patiently(write), result.folder / "models", metrics))
        papers[result.method] = paper
    note = describing.experiment_note([(each.record, each.metrics) for each in trained], papers)
    shown = files.of_report(report, results[0].dataset)
    patiently(partial(publish_report, trained[0].record, shown, note=note))
    return trained


def publish(
    record: Record,
    histories: Mapping[int, Sequence[Row]],
    metrics: Summaries,
    *,
    note: str = "",
    files: Callable[[], Files] = dict,
) -> str:
    """Write a method's run, with means over its seeds, and each seed's; return its id.

    metrics: {name: summary}, as in metrics.json. note: Markdown. files: makes the artifacts of a
    run that is not there yet.
    """
    content, key = digest([record, histories, metrics, note, code()]), record["key"]
    with alone():
        store = Store(record["dataset"])
        if not (run_id := store.whole(content, key, histories)):
            written = write(store, record, histories, metrics, note=note, files=files())
            store.client.set_tag(written, DIGEST, content)
            run_id = store.whole(content, key, histories)
    if not run_id:
        raise InputError(f"run {written}: another process deleted it; run this again")
    return run_id


def write(
    store: Store,
    record: Record,
    histories: Mapping[int, Sequence[Row]],
    metrics: Summaries,
    *,
    note: str,
    files: Files,
) -> str:
    """Write a method's run and its seeds' without a look at what is there; return its id."""

    def fill(run: str, points: naming.Points, seed: int | None, seconds: float | None) -> None:
        store.log(run, points, record, seconds)
        store.attach(run, files.get(seed, {}))
        store.client.set_terminated(run, end_time=ended(record, seconds))

    former = store.find(key=record["key"], kind="run")
    parent = store.create(record, former=former, note=note)
    took = {seed: record["seeds"].get(str(seed), {}).get("seconds") for seed in histories}
    for seed, rows in histories.items():
        run = store.create(record, seed, former=former, parent=parent)
        final = naming.final_names(metrics, seed), naming.LAST
        fill(run, [*naming.seed_points(rows), final], seed, took[seed])
    final = naming.summary_names(metrics), naming.LAST
    total = None if None in took.values() else sum(took.values())
    fill(parent, [*naming.mean_points(histories), final], None, total)
    return parent


def publish_report(record: Record, files: Mapping[str, str], *, note: str) -> None:
    """The report on a data set as a run that has nothing else; `note`, Markdown, describes the
    experiment. record: that of any run on the data set."""
    title, content = f"report · {record['dataset']}", digest(files)
    wanted = {TAGS["key"]: title, TAGS["kind"]: "report"}
    wanted |= {name: record["tags"][name] for name in SHARED}
    with alone():
        store = Store(record["dataset"])
        if not store.find(key=title, kind="report"):
            store.client.create_run(store.experiment, tags=wanted, run_name=title)
        run, *doubles = store.find(key=title, kind="report")
        for double in doubles:
            store.client.delete_run(double.info.run_id)
        if run.data.tags.get(DIGEST) != content:
            store.attach(run.info.run_id, files)
            store.client.set_terminated(run.info.run_id)
            store.client.set_tag(run.info.run_id, DIGEST, content)
        if store.client.get_experiment(store.experiment).tags.get(NOTE) != note:
            store.client.set_experiment_tag(store.experiment, NOTE, note)


@cache
def code() -> list[str]:
    """Matplotlib's version, and digests of the files that decide what is written and drawn."""
    folders = (Path(__file__).parent, Path(reporting.__file__).parent)
    files = [path for folder in folders for path in sorted(folder.rglob("*.*"))]
    digests = [sha256(path) for path in files if path.suffix in (".py", ".mplstyle")]
    return [version("matplotlib"), *digests]


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
