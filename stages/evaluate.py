"""Compute every metric of every seed's embeddings, with means and confidence intervals.

`class_scores.csv` has the retrieval metrics of each seed and test class.
"""

import torch

from heated.common.errors import run
from heated.common.io import (
    load_settings,
    read_embeddings,
    run_folder,
    seed_files,
    write_csv,
    write_json,
)
from heated.evaluation.metrics import evaluate_by_class, summarize_seeds
from heated.runtime.device import machine_kmeans, setup_device
from heated.runtime.distributed import is_main_process


def main(dataset: str, method: str) -> None:
    """Write a run's metrics, and those by class. The processes of `torchrun` share the work."""
    config, folder = load_settings(f"evaluation/{dataset}.json"), run_folder(dataset, method)
    settings, device = config["evaluation"], setup_device(**config["machine"])
    settings["kmeans"] = machine_kmeans(settings["kmeans"], device)
    values, class_rows = {}, []
    for seed, path in seed_files(folder / "embeddings", "embed").items():
        arrays = {k: torch.from_numpy(v).to(device) for k, v in read_embeddings(path).items()}
        values[seed], by_class = evaluate_by_class(arrays, **settings)
        class_rows += [{"seed": seed, **row} for row in by_class]
    if is_main_process():
        write_json(folder / "metrics.json", summarize_seeds(values, settings["kmeans"]["name"]))
        write_csv(folder / "class_scores.csv", class_rows)


if __name__ == "__main__":
    run(main)
