"""Compute gradient norms of training samples against alpha, by kind of sample."""

import torch

from heated.analysis.gradients import gradients_by_kind
from heated.common.cli import run
from heated.common.io import required, write_json
from heated.common.paths import packed_folder, resolved, run_folder
from heated.data import packed_dataset
from heated.data.batches import Mapped
from heated.models import embedding_model
from heated.runtime.device import prepared


def main(dataset: str, method: str) -> None:
    """Write a run's curves by seed and kind of sample."""
    study, folder = resolved("gradients.json"), run_folder(dataset, method)
    device = prepared(study.pop("threads"))
    data = packed_dataset.unpack(packed_folder(dataset))
    indices, classes = data.part(data.split.train)
    images, labels = Mapped(data.images, indices, device), torch.from_numpy(classes).to(device)
    seeds = {}
    for path in sorted(required(folder / "models", "train").glob("seed-*.safetensors")):
        model = embedding_model.load_with_head(path, device)
        seeds[path.stem.removeprefix("seed-")] = gradients_by_kind(model, images, labels, **study)
    write_json(folder / "gradients.json", {"seeds": seeds})


if __name__ == "__main__":
    run(main)
