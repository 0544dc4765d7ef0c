"""Compute gradient norms of training samples against alpha, by kind of sample."""

import torch

from heated.analysis.gradients import gradients_by_kind
from heated.common.errors import run
from heated.common.io import load_settings, packed_folder, run_folder, seed_files, write_json
from heated.data import packed_dataset
from heated.data.packed_dataset import MemmapImages
from heated.models import embedding_model
from heated.runtime.device import setup_device


def main(dataset: str, method: str) -> None:
    """Write a run's curves by seed and kind of sample."""
    study, folder = load_settings("gradients.json"), run_folder(dataset, method)
    device = setup_device(**study.pop("machine"))
    data = packed_dataset.load_packed(packed_folder(dataset))
    indices, classes = data.indices_and_classes(data.split.train)
    images = MemmapImages(data.images, indices, device)
    labels = torch.from_numpy(classes).to(device)
    seeds = {}
    for seed, path in seed_files(folder / "models", "train").items():
        model = embedding_model.load_model_with_loss(path, device)
        embedding_model.check_image_shape(path, model, data.images.shape[1:])
        seeds[str(seed)] = gradients_by_kind(model, images, labels, **study)
    write_json(folder / "gradients.json", {"seeds": seeds})


if __name__ == "__main__":
    run(main)
