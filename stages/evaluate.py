"""Every metric of every seed's embeddings, and their mean with its interval."""

from pathlib import Path

import torch

from heated import config
from heated.common.cli import run
from heated.common.io import read_arrays, required, write_json
from heated.evaluation.metrics import evaluate, with_engine
from heated.evaluation.summary import summaries
from heated.runtime.device import prepared
from heated.runtime.distributed import first


def main(dataset: str, embeddings: Path, metrics: Path) -> None:
    """`embeddings`: folder of seed-<s>.npz; `metrics`: JSON, a summary a metric. `torchrun` shares
    the work among processes."""
    params = config.load()
    settings = params.datasets[dataset].evaluation
    device = prepared(params.run.threads)
    values = {}
    for path in required(embeddings, "embed").glob("seed-*.npz"):
        arrays = {k: torch.from_numpy(v).to(device) for k, v in read_arrays(path).items()}
        seed = int(path.stem.removeprefix("seed-"))
        values[seed] = evaluate(
            **arrays,
            recall_at=settings.recall_at,
            kmeans=settings.kmeans.model_dump(),
            kmeans_seeds=settings.kmeans_seeds,
            memory=settings.memory,
        )
    if first():
        write_json(metrics, with_engine(summaries(values), settings.kmeans.name))


if __name__ == "__main__":
    run(main)
