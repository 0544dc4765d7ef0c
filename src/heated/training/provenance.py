"""Where a run came from: parameters, data, code, hardware, versions, time."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from heated.common.history import Row
from heated.data.packed_dataset import Packed
from heated.runtime.environment import collect_environment, source_commit
from heated.training.checkpoints import fingerprint
from heated.training.training_run import Run

Record = dict[str, Any]


def of(run: Run, tags: Mapping[str, str], params: Mapping[str, Any]) -> Record:
    """Return what is known of a run before it is trained. tags: by what it is grouped, with its
    method and recipe. `key` identifies it in MLflow: two methods may be trained alike, and another
    processor rounds differently."""
    machine = collect_environment(run.device)
    return {
        "dataset": tags["recipe"],
        "method": tags["method"],
        "tags": dict(tags),
        "key": fingerprint([run.key(), tags["method"], dict(params), machine["device"]]),
        "params": dict(params),
        "data_sha256": run.digest,
        "split": {"tested": run.data.split.tested, **parts(run.data)},
        "source": source_commit(),
        "environment": machine,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "seeds": {},
    }


def parts(data: Packed) -> dict[str, Any]:
    """Count the images and classes of each part of the split."""
    return {
        name: {"images": int(mask.sum()), "classes": len(np.unique(data.labels[mask]))}
        for name, mask in data.split.masks().items()
    }


def finished(
    record: Record, done: Mapping[int, Mapping[str, Any]], usage: Mapping[int, Sequence[Row]]
) -> Record:
    """Return the record with each seed's results, except its history, which has a file of its own,
    and with the use of the machine in the epochs that were trained now."""
    before = {seed: len(each["history"]) - each["epochs_trained"] for seed, each in done.items()}
    now = {s: [row for row in rows if row["epoch"] >= before[s]] for s, rows in usage.items()}
    seeds = {str(s): {k: v for k, v in each.items() if k != "history"} for s, each in done.items()}
    return {**record, "seeds": seeds, "usage": {str(s): rows for s, rows in now.items() if rows}}
