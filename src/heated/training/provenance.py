"""Record the provenance of a run: parameters, data, code, hardware, versions, time."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from heated.common.history import History, write_history
from heated.common.io import write_record
from heated.runtime.device import float32_products
from heated.runtime.environment import collect_environment, source_commit
from heated.training.checkpoints import fingerprint
from heated.training.training_run import TrainingRun


def make_provenance(
    run: TrainingRun, tags: Mapping[str, str], params: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the provenance of a run before it is trained; `tags` include method and recipe.

    `key` identifies the run in MLflow. It depends on the method, since two methods may have equal
    trainings, and on the processor, since rounding differs between processors.
    """
    with float32_products(tf32=run.recipe.precision == "tf32"):  # as in every step
        machine = collect_environment(run.device)
    parts = {
        name: {"images": int(mask.sum()), "classes": len(np.unique(run.data.labels[mask]))}
        for name, mask in run.data.split.masks().items()
    }
    return {
        "dataset": tags["recipe"],
        "method": tags["method"],
        "tags": dict(tags),
        "key": fingerprint([run.key(), tags["method"], dict(params), machine["device"]]),
        "params": dict(params),
        "data_sha256": run.digest,
        "split": {"tested": run.data.split.tested, **parts},
        "source": source_commit(),
        "environment": machine,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "seeds": {},
    }


def with_results(
    provenance: Mapping[str, Any], results: Mapping[int, Mapping[str, Any]], usage: History
) -> dict[str, Any]:
    """Add each seed's results, without its history, and the machine's usage in its new epochs."""
    seeds, new_usage = {}, {}
    for seed, result in results.items():
        seeds[str(seed)] = {key: value for key, value in result.items() if key != "history"}
        restored = len(result["history"]) - result["epochs_trained"]
        rows = [row for row in usage.get(seed, ()) if row["epoch"] >= restored]
        if rows:
            new_usage[str(seed)] = rows
    return {**provenance, "seeds": seeds, "usage": new_usage}


def write_results(
    folder: Path,
    provenance: Mapping[str, Any],
    results: Mapping[int, Mapping[str, Any]],
    usage: History,
) -> None:
    """Write a run's history, and its provenance with the results of each seed."""
    write_history(folder / "history.csv", {s: r["history"] for s, r in results.items()})
    write_record(folder / "provenance.json", with_results(provenance, results, usage))
