"""The gradients of every seed's training samples against alpha, by kind of sample."""

from pathlib import Path

import numpy as np
import torch

from heated import config
from heated.analysis.gradient_study import gradients_by_kind
from heated.common.cli import run
from heated.common.io import required, write_json
from heated.data import packed_dataset
from heated.data.batches import Mapped
from heated.models import embedding_model
from heated.runtime.device import prepared


def main(packed: Path, trained: Path, gradients: Path) -> None:
    """`trained`: folder of seed-<s>.safetensors; `gradients`: JSON, curves by seed and kind."""
    params = config.load()
    study, device = params.studies.gradients, prepared(params.run.threads)
    data = packed_dataset.unpack(packed)
    numbers = np.flatnonzero(data.split.train)
    images = Mapped(data.images, numbers, device)
    classes = np.unique(data.labels[numbers], return_inverse=True)[1]
    labels = torch.from_numpy(classes).to(device)
    seeds = {}
    for path in sorted(required(trained, "train").glob("seed-*.safetensors")):
        seeds[path.stem.removeprefix("seed-")] = gradients_by_kind(
            embedding_model.load_with_head(path, device),
            images,
            labels,
            alphas=study.alphas,
            samples=study.samples,
        )
    write_json(gradients, {"seeds": seeds})


if __name__ == "__main__":
    run(main)
