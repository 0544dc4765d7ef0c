"""Compute every metric for every seed's embeddings, with mean and interval."""

from typing import Any

import torch

from heated.common.cli import run
from heated.common.io import read_arrays, required, write_json
from heated.common.paths import resolved, run_folder
from heated.evaluation.metrics import evaluate, with_engine
from heated.evaluation.summary import summaries
from heated.runtime.device import prepared
from heated.runtime.distributed import is_main_process


def main(dataset: str, method: str) -> None:
    """Write the metrics of a run; `torchrun` shares the work among processes."""
    given, folder = resolved(f"evaluation/{dataset}.json"), run_folder(dataset, method)
    settings, device = given["evaluation"], prepared(given["threads"])
    values = {}
    for path in required(folder / "embeddings", "embed").glob("seed-*.npz"):
        arrays: dict[str, Any] = read_arrays(path)
        arrays = {name: torch.from_numpy(each).to(device) for name, each in arrays.items()}
        values[int(path.stem.removeprefix("seed-"))] = evaluate(**arrays, **settings)
    if is_main_process():
        engine = settings["kmeans"]["name"]
        write_json(folder / "metrics.json", with_engine(summaries(values), engine))


if __name__ == "__main__":
    run(main)
