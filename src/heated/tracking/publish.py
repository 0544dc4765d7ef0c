"""Publish a data set's runs, and the report on them, from the files of the stages.

A run's last tag is a digest of its content. A run with the same digest is kept. Otherwise the run
is written again, and the former one is deleted.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from heated import reporting
from heated.common.history import Row, add_system_metrics
from heated.common.io import require_output, sha256
from heated.reporting.figures import FIGURES, draw_figure
from heated.reporting.figures.base import method_colors
from heated.reporting.figures.embeddings_2d import draw_epoch_embeddings
from heated.reporting.paper_results import paper_value
from heated.reporting.run_results import RunResult
from heated.reporting.tables import markdown_table
from heated.tracking import PublishedRun, Record, Summaries, experiment_name, tracking_uri
from heated.tracking.client import (
    DIGEST_TAG,
    NOTE_DIGEST_TAG,
    NOTE_TAG,
    OWNER_TAG,
    TAGS,
    Experiment,
    content_digest,
    time_ms,
)
from heated.tracking.metric_names import final_metrics, mean_points, seed_points
from heated.tracking.saved_view import VIEW_DIGEST_TAG, VIEW_TAG, is_view_supported, view_text
from heated.tracking.store import TransientError, store_lock, wrap_mlflow_errors

Artifacts = Mapping[int | None, Mapping[str, str]]  # texts by path, by seed; None for the method
WAITS = (1, 2, 4, 8, 16, 32)  # seconds before each retry, enough for a server to restart
RETRY_S = 70  # of all retries
PAPER = "https://arxiv.org/abs/1809.04157"
GROUPS = (
    "`train/`, `schedule/` and `unseen/` are curves by epoch; a method's run has their means over "
    "seeds. `final/` are metrics of the trained model. `interval/` has the ends of the 95 % "
    "confidence interval of Recall@1, and the number of seeds. `system/` is the use of the machine "
    "during training. A run's description has all intervals, `metrics.json` all metrics."
)
EMPTY: Mapping[str, str] = {}
COLUMNS = ("mean", "95 % interval", "n", "paper")
T = TypeVar("T")


def publish_dataset(
    results: Sequence[RunResult],
    section: Mapping[str, Any],
    tags: Mapping[str, Mapping[str, str]],
    report: Path,
) -> list[PublishedRun]:
    """Publish all runs on a data set, and the report in the folder `report`.

    `section` is the data set's in datasets.yaml; `tags` are those of each method.
    """
    runs, papers, colors = [], {}, method_colors(results)
    for result in results:
        color = {"mlflow.runColor": colors[result.method]}
        record, metrics = result.record | {"tags": {**tags[result.method], **color}}, result.metrics
        values = {name: paper_value(record, section, name) for name in metrics}
        paper = {name: value for name, value in values.items() if value is not None}
        history = add_system_metrics(result.history, record.get("usage", {}))
        publish = partial(publish_run, record, history, metrics)
        texts = {"note": run_note(record, metrics, paper), "draw": partial(draw_artifacts, result)}
        run_id = with_retries(partial(publish, **texts))
        runs.append(PublishedRun(record, run_id, result.folder / "models", metrics))
        papers[result.method] = paper
    note = experiment_note([(run.record, run.metrics) for run in runs], papers)
    dataset = results[0].dataset
    figures = ["figures/forest.svg", *(f"figures/{dataset}-{name}.svg" for name in FIGURES)]
    names = ["index.html", *(f"tables/{dataset}.{suffix}" for suffix in ("md", "csv", "tex"))]
    names += [name for name in figures if (report / name).exists()]
    paths = {name: require_output(report / name, "report") for name in names}
    artifacts = {name: path.read_text(encoding="utf-8") for name, path in paths.items()}
    with_retries(partial(publish_report, runs[0].record, artifacts, note=note))
    return runs


def publish_run(
    record: Record,
    histories: Mapping[int, Sequence[Row]],
    metrics: Summaries,
    *,
    note: str = "",
    draw: Callable[[], Artifacts] = dict,
) -> str:
    """Publish a method's run and its seeds' runs, and return the id of the method's.

    `note` is Markdown. `draw` returns the artifacts; it is called only if the run has changed.
    """
    digest = content_digest([record, histories, metrics, note, code_digests()])
    durations = {seed: record["seeds"].get(str(seed), {}).get("seconds") for seed in histories}
    total = None if None in durations.values() else sum(durations.values())
    with store_lock():
        experiment = Experiment(record["dataset"], experiment_name(record))
        if run_id := experiment.delete_duplicates(digest, record["key"], histories):
            return run_id
        artifacts, former = draw(), experiment.find_own(record["key"], "run")
        parent = experiment.create_run(record, former=former, note=note)
        for seed in (*histories, None):
            run_id, points, seconds = parent, mean_points(histories, metrics), total
            if seed is not None:
                run_id = experiment.create_run(record, seed, former=former, parent=parent)
                points = seed_points(seed, histories[seed], metrics)
                seconds = durations[seed]
            experiment.log_metrics(run_id, points, record, seconds)
            for path, text in artifacts.get(seed, {}).items():
                experiment.client.log_text(run_id, text, path)
            end = time_ms(record, seconds)
            experiment.client.set_terminated(run_id, end_time=end)
        experiment.client.set_tag(parent, DIGEST_TAG, digest)
        run_id = experiment.delete_duplicates(digest, record["key"], histories)
        if run_id and not former:
            run_id = experiment.yield_to_equal(run_id, digest, record["key"], histories)
    if not run_id:
        raise TransientError(f"MLflow run {parent}: deleted by another process. Run this again.")
    return run_id


def publish_report(record: Record, artifacts: Mapping[str, str], *, note: str) -> None:
    """Publish the report on the data set of `record`, and describe the experiment by `note`."""
    key, digest = f"report · {record['dataset']}", content_digest(artifacts)
    with store_lock():
        experiment = Experiment(record["dataset"], experiment_name(record))
        mlflow, title = experiment.client, experiment.title("report")
        every, own = experiment.find_runs(key=key), experiment.find_own(key, "report")
        equal = [run for run in every if run.data.tags.get(DIGEST_TAG) == digest]
        if not own and not equal:
            tags = {TAGS["key"]: key, TAGS["kind"]: "report", OWNER_TAG: experiment.owner}
            tags |= {name: record["tags"][name] for name in ("dataset", "recipe")}
            # Before all methods: it has no metrics, and MLflow draws the latest runs.
            mlflow.create_run(experiment.id, time_ms(record, -1), tags, title)
            own = experiment.find_own(key, "report")
        for duplicate in own[1:]:
            mlflow.delete_run(duplicate.info.run_id)
        for run in own[:1]:
            if run.data.tags.get(DIGEST_TAG) != digest:
                for path, text in artifacts.items():
                    mlflow.log_text(run.info.run_id, text, path)
                mlflow.set_terminated(run.info.run_id)
                mlflow.set_tag(run.info.run_id, DIGEST_TAG, digest)
        run_id = (own or equal)[0].info.run_id
        page = f"#/experiments/{experiment.id}/runs/{run_id}/artifacts/index.html"
        owner = {OWNER_TAG: experiment.owner}
        write_tag(experiment, NOTE_TAG, NOTE_DIGEST_TAG, f"[The report]({page}). {note}", owner)
        if is_view_supported():
            created = mlflow.get_experiment(experiment.id).creation_time
            write_tag(experiment, VIEW_TAG, VIEW_DIGEST_TAG, view_text(created))


def write_tag(
    experiment: Experiment, name: str, digest_name: str, text: str, owner: Mapping[str, str] = EMPTY
) -> None:
    """Set an MLflow experiment's tag, unless a user has edited it or has another `owner`."""
    tags = experiment.client.get_experiment(experiment.id).tags
    old, digests = tags.get(name), tags.get(digest_name, "").split()
    is_own = content_digest(old) in digests and owner.items() <= tags.items()
    if old == text or not (old is None or is_own):
        return
    # Both digests, since this may be killed before the tag is set.
    both = f"{content_digest(old)} {content_digest(text)}"
    for key, value in {**owner, digest_name: both, name: text}.items():
        experiment.client.set_experiment_tag(experiment.id, key, value)


def draw_artifacts(result: RunResult) -> Artifacts:
    """Return a run's files, its curves, and pictures of each seed's embeddings if D = 2."""
    names = ("history.csv", "metrics.json", "provenance.json")
    texts = {name: (result.folder / name).read_text(encoding="utf-8") for name in names}
    curves = draw_figure("curves", [result], {"run": [result.method]})
    assert curves is not None
    artifacts: dict[int | None, dict[str, str]] = {None: {**texts, "curves.svg": curves.svg}}
    for seed, rows in result.history.items():
        of_seed = replace(result, history={seed: rows})
        if picture := draw_figure("embeddings_2d", [of_seed], {"embeddings_2d": [result.method]}):
            pictures = draw_epoch_embeddings(of_seed, seed).items()
            artifacts[seed] = {f"epochs/epoch-{epoch:04}.svg": svg for epoch, svg in pictures}
            artifacts[seed]["embeddings.svg"] = picture.svg
    return artifacts


@cache
def code_digests() -> list[str]:
    """Return matplotlib's version, and digests of the files that determine a run's content."""
    folders = (Path(__file__).parent, Path(reporting.__file__).parent)
    files = [path for folder in folders for path in sorted(folder.rglob("*.*"))]
    digests = [sha256(path) for path in files if path.suffix in (".py", ".mplstyle")]
    return [version("matplotlib"), *digests]


def with_retries(publish: Callable[[], T]) -> T:
    """Call `publish`; if a server does not answer, say so and retry for RETRY_S seconds."""
    waits, end = iter(WAITS), time.monotonic() + RETRY_S
    while True:
        try:
            with wrap_mlflow_errors():
                return publish()
        except TransientError as error:
            wait = next(waits, 0)
            is_server = tracking_uri().startswith("http")
            if not is_server or not wait or time.monotonic() + wait > end:
                raise
            if wait == WAITS[0]:
                reason = str(error).partition("\n")[0]
                print(f"{reason}\nTrying again for {RETRY_S} s", flush=True)
            time.sleep(wait)


def run_note(record: Record, metrics: Summaries, paper: Mapping[str, float]) -> str:
    """Describe a method's run by its means and the paper's values in [0, 1], if it has any."""
    tags = record["tags"]
    head = (
        f"**{record['method']}** on **{record['dataset']}** ({tags['backbone']}, "
        f"D = {record['params']['embedding_dim']}), study: {tags['study']}."
    )
    shown = final_metrics(metrics).items()
    rows = [[name, *table_cells(summary, paper.get(name))] for name, summary in shown]
    reported = "one training" if paper else "no result for this method with this recipe"
    source = f"Paper: [arXiv 1809.04157]({PAPER}), which reports {reported}."
    return "\n\n".join([head, markdown_table(["metric", *COLUMNS], rows), source])


def experiment_note(
    runs: Sequence[tuple[Record, Summaries]], papers: Mapping[str, Mapping[str, float]]
) -> str:
    """Describe a data set by its parts, and each method's Recall@1 next to the paper's.

    `papers` has the paper's values in [0, 1] by method and metric.
    """
    record, name = runs[0][0], "recall_at_1"
    split = {side: record["split"][side] for side in ("train", "query", "gallery")}
    counts = [
        f"{k}: {part['images']} images of {part['classes']} classes" for k, part in split.items()
    ]
    parts = ", ".join(counts)
    head = (
        f"**{record['dataset']}** (images: {record['tags']['dataset']}; tested: "
        f"{record['split']['tested']}). {parts}. [Heated-Up Softmax Embedding]({PAPER}): each run "
        "is a method, and its child runs are its seeds."
    )
    rows = [
        [run["method"], *table_cells(metrics[name], papers[run["method"]].get(name))]
        for run, metrics in runs
        if name in metrics
    ]
    return "\n\n".join([head, markdown_table(["method", "Recall@1", *COLUMNS[1:]], rows), GROUPS])


def table_cells(summary: Mapping[str, Any], paper: float | None) -> list[str]:
    """Return the cells of a metric's COLUMNS, in percent."""
    interval = " to ".join(f"{100 * end:.2f}" for end in summary["interval"] or ()) or "none"
    in_paper = "" if paper is None else f"{100 * paper:.2f} %"
    return [f"{100 * summary['mean']:.2f} %", interval, str(summary["n"]), in_paper]
