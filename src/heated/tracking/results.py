"""All of a data set's runs in MLflow, from what the stages left, and the report on them."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from heated.reporting.paper import published
from heated.reporting.results import Result
from heated.runtime.system_metrics import joined
from heated.tracking import describing, files
from heated.tracking.publishing import patiently, publish, publish_report
from heated.tracking.registry import Trained

Tags = Mapping[str, Mapping[str, str]]


def track(
    results: Sequence[Result], section: Mapping[str, Any], tags: Tags, report: Path
) -> list[Trained]:
    """The runs as they are in MLflow; `section`: the data set's in params.yaml, `tags`: those of
    each method, `report`: the folder of the report."""
    papers = {result.method: paper(result, section) for result in results}
    trained = [
        run(result, result.record | {"tags": tags[result.method]}, papers[result.method])
        for result in results
    ]
    note = describing.experiment_note([(each.record, each.metrics) for each in trained], papers)
    shown = files.of_report(report, results[0].dataset)
    patiently(partial(publish_report, trained[0].record, shown, note=note))
    return trained


def run(result: Result, record: dict[str, Any], paper: Mapping[str, float]) -> Trained:
    """One run in MLflow."""
    note = describing.run_note(record, result.metrics, paper)
    history, shown = joined(result.history, record.get("usage", {})), files.of_run(result)
    what = partial(publish, record, history, result.metrics, note=note, files=shown)
    return Trained(record, patiently(what), result.folder / "models", result.metrics)


def paper(result: Result, section: Mapping[str, Any]) -> dict[str, float]:
    """The paper's numbers of a run, by metric; empty where it departs from the paper."""
    found = {name: published(result.record, section, name) for name in result.metrics}
    return {name: value for name, value in found.items() if value is not None}
