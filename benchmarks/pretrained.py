"""How well a pretrained network's pooled features find unseen classes, before any training here.

The images of a zip with a folder a class, squashed to 256 x 256, centre crop of 224, ImageNet's
mean and deviation; Recall@1 among the classes that do not match --train.

    python benchmarks/pretrained.py --images cub100-cropped.zip --train '0|100' \
        --weights mobilenet_v2-imagenet.safetensors --json benchmarks/results/pretrained.json
"""

import argparse
import json
import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import nn

from heated.data.batches import device_images
from heated.data.packed_dataset import Packed, unpack
from heated.datasets.image_folder import samples_by_directory
from heated.datasets.splits import split
from heated.evaluation.retrieval import retrieval_metrics
from heated.models import pretrained
from heated.models.embedding import embed
from heated.models.embedding_model import Architecture, Model
from heated.preprocessing.packing import pack
from heated.runtime.device import prepared
from heated.runtime.environment import collect_environment

# by network: its last layer, and how many features that reads
BOTTLENECK = {
    "googlenet": ("fc", 1024),
    "resnet50": ("fc", 2048),
    "mobilenet_v2": ("classifier", 1280),
}
AS_TRAINED = {"momentum": 0.1, "eps": 1e-5, "frozen": False}


def packed(archive: Path, train: str, folder: Path) -> Packed:
    """The archive's images, squashed to 256 x 256; classes that match `train` are not tested."""
    samples = samples_by_directory(archive, str)
    pack(
        samples,
        split(samples, "pattern", train=train),
        folder / "packed",
        size=256,
        fit="squash",
        colour="rgb",
        filter="bilinear",
        damaged=0,
        workers=os.cpu_count() or 1,
    )
    return unpack(folder / "packed")


def pooled(backbone: str, weights: str) -> Model:
    """A network with the weights, whose embedding is what its bottleneck would read."""
    layer, features = BOTTLENECK[backbone]
    architecture = Architecture(
        image_shape=(256, 256, 3),
        num_classes=2,
        embedding_dim=features,
        backbone={"name": backbone, "batch_norm": AS_TRAINED, "frozen_blocks": 0},
        normalise={"name": "none"},
        bias="none",
        label_smoothing=0.0,
        augment=[{"name": "crop", "size": 224}],
        pixel_mean=[0.485, 0.456, 0.406],
        pixel_std=[0.229, 0.224, 0.225],
    )
    model = Model(architecture)
    found = pretrained.pretrained_state_dict(weights, backbone)
    if found is not None:
        pretrained.load_pretrained(model.network, found)
    setattr(model.network, layer, nn.Identity())
    return model


def recall(model: Model, data: Packed) -> dict[str, Any]:
    """Recall@1 of the tested images, and what it took."""
    numbers = np.flatnonzero(data.split.query)
    started = time.perf_counter()
    embeddings = embed(model, device_images(data.images, numbers, torch.device("cpu")))
    seconds = time.perf_counter() - started
    labels = torch.from_numpy(data.labels[numbers])
    scores = retrieval_metrics(embeddings, labels, recall_at_k=[1], with_map_at_r=False)
    return {
        "recall_at_1": scores.values["recall_at_1"],
        "images": len(numbers),
        "classes": len(labels.unique()),
        "dimensions": embeddings.shape[1],
        "images_a_second": len(numbers) / seconds,
    }


def main() -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, required=True, help="a zip with a folder a class")
    parser.add_argument("--train", required=True, help="pattern of the classes that are not tested")
    parser.add_argument("--backbone", choices=BOTTLENECK, default="mobilenet_v2")
    parser.add_argument("--weights", default="imagenet", help="imagenet, none, or a file")
    parser.add_argument("--threads", type=int, default=2, help="of the CPU (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    device = prepared(options.threads)
    with TemporaryDirectory() as folder:
        data = packed(options.images, options.train, Path(folder))
        figures = recall(pooled(options.backbone, options.weights), data)
    print(*(f"{name} {value}" for name, value in figures.items()), sep="\n")
    if options.json:
        told = {"backbone": options.backbone, **figures, **collect_environment(device)}
        options.json.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
