"""Every metric of every seed's embeddings, and their mean with its interval."""

from pathlib import Path

import torch

from heated import config
from heated.command import run
from heated.devices import prepared
from heated.files import read_arrays, required, write_json
from heated.metrics import evaluate
from heated.statistics import summaries


def main(dataset: str, embeddings: Path, metrics: Path) -> None:
    """`embeddings`: folder of seed-<s>.npz; `metrics`: JSON, a summary a metric."""
    params = config.load()
    settings = params.datasets[dataset].evaluation
    device = prepared(params.run.threads)
    values = {}
    for path in required(embeddings, "embed").glob("seed-*.npz"):
        arrays = {k: torch.from_numpy(v).to(device) for k, v in read_arrays(path).items()}
        values[int(path.stem.removeprefix("seed-"))] = evaluate(
            **arrays,
            recall_ks=settings.recall_at,
            kmeans=settings.kmeans.name,
            kmeans_options=settings.kmeans.options,
        )
    write_json(metrics, summaries(values))


if __name__ == "__main__":
    run(main)
