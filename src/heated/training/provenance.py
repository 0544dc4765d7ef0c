"""Where a run came from: parameters, data, code, hardware, versions, time."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from heated.common.history import Row
from heated.data.packed_dataset import Packed
from heated.runtime.environment import environment, source_commit
from heated.training.checkpoints import fingerprint
from heated.training.training_run import Run

Record = dict[str, Any]


def of(run: Run, tags: Mapping[str, str], params: Mapping[str, Any]) -> Record:
    """What is known of a run before it is trained. tags: by what it is grouped, its method and its
    recipe among them. `key` tells it from others in MLflow: two methods may be trained alike, and
    another processor rounds differently."""
    machine = environment(run.device)
    return {
        "dataset": tags["recipe"],
        "method": tags["method"],
        "tags": dict(tags),
        "key": fingerprint([run.key(), tags["method"], dict(params), machine["device"]]),
        "params": dict(params),
        "data_sha256": run.digest,
        "split": parts(run.data),
        "source": source_commit(),
        "environment": machine,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "seeds": {},
    }


def parts(data: Packed) -> dict[str, Any]:
    """What query and gallery are, and the images and classes of each part."""
    counts = {
        name: {"images": int(mask.sum()), "classes": len(np.unique(data.labels[mask]))}
        for name, mask in data.split.masks().items()
    }
    return {"tested": data.split.tested, **counts}


def finished(
    record: Record, done: Mapping[int, Mapping[str, Any]], usage: Mapping[int, Sequence[Row]]
) -> Record:
    """The record with each seed's seconds of training, how many epochs were trained now, and what
    these took of the machine."""
    before = {seed: len(each["history"]) - each["epochs_trained"] for seed, each in done.items()}
    now = {
        seed: [row for row in rows if row["epoch"] >= before[seed]] for seed, rows in usage.items()
    }
    return {
        **record,
        "seeds": {str(seed): told(result) for seed, result in done.items()},
        "usage": {str(seed): rows for seed, rows in now.items() if rows},
    }


def told(result: Mapping[str, Any]) -> dict[str, Any]:
    """What a run's record keeps of a seed's training; its history has a file of its own."""
    return {key: value for key, value in result.items() if key != "history"}
