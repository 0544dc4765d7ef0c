"""Where a run came from: parameters, data, code, hardware, versions, time."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from heated.environment import environment, source_commit
from heated.runs import Run
from heated.unpacking import Packed

Record = dict[str, Any]


def of(run: Run, dataset: str, method: str, params: Mapping[str, Any]) -> Record:
    """What is known of a run before it is trained; `key` is the same for equal training."""
    return {
        "dataset": dataset,
        "method": method,
        "key": run.key(),
        "params": dict(params),
        "data_sha256": run.digest,
        "split": parts(run.data),
        "source": source_commit(),
        "environment": environment(run.device),
        "seeds": {},
    }


def parts(data: Packed) -> dict[str, Any]:
    """What query and gallery are, and the images and classes of each part."""
    counts = {
        name: {"images": int(mask.sum()), "classes": len(np.unique(data.labels[mask]))}
        for name, mask in data.split.masks().items()
    }
    return {"tested": data.split.tested, **counts}


def finished(record: Record, done: Mapping[int, Mapping[str, Any]]) -> Record:
    """The record with each seed's seconds of training and how many epochs were trained now."""
    return {**record, "seeds": {str(seed): told(result) for seed, result in done.items()}}


def told(result: Mapping[str, Any]) -> dict[str, Any]:
    """What a run's record keeps of a seed's training; its history has a file of its own."""
    return {key: value for key, value in result.items() if key != "history"}
