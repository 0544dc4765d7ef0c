"""Measure Recall@1 of a pretrained network's pooled features on unseen classes, before training.

The images of a zip with one folder per class are squashed to 256 x 256, cropped to the central 224,
and normalized by ImageNet's mean and deviation. Classes that match --train are not tested.

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

from heated.data.packed_dataset import PackedDataset, device_images, load_packed
from heated.datasets.image_folder import samples_by_directory
from heated.datasets.splits import split
from heated.evaluation.metrics import retrieval_metrics
from heated.models import pretrained
from heated.models.embedding_model import Architecture, ModelWithLoss, embed
from heated.preprocessing.packing import pack
from heated.runtime.device import setup_device
from heated.runtime.environment import collect_environment

# by network: its last layer, and the number of its input features
BOTTLENECK = {
    "googlenet": ("fc", 1024),
    "resnet50": ("fc", 2048),
    "mobilenet_v2": ("classifier", 1280),
}
BATCH_NORM = {"momentum": 0.1, "eps": 1e-5, "frozen": False}


def pack_archive(archive: Path, train: str, folder: Path) -> PackedDataset:
    """Pack the archive's images; classes that match `train` are not tested."""
    samples = samples_by_directory(archive, str)
    pack(
        samples,
        split(samples, "pattern", train=train),
        folder / "packed",
        size=256,
        fit="squash",
        color_mode="rgb",
        filter="bilinear",
        max_damaged_images=0,
        workers=os.cpu_count() or 1,
    )
    return load_packed(folder / "packed")


def pooled_model(backbone: str, weights: str) -> ModelWithLoss:
    """Return a pretrained network whose embedding is the input of its bottleneck."""
    layer, features = BOTTLENECK[backbone]
    architecture = Architecture(
        image_shape=(256, 256, 3),
        num_classes=2,
        embedding_dim=features,
        backbone={"name": backbone, "batch_norm": BATCH_NORM, "frozen_blocks": 0},
        normalize={"name": "none"},
        bias="none",
        label_smoothing=0.0,
        augment=[{"name": "crop", "size": 224}],
        pixel_mean=[0.485, 0.456, 0.406],
        pixel_std=[0.229, 0.224, 0.225],
    )
    model = ModelWithLoss(architecture)
    state_dict = pretrained.pretrained_state_dict(weights, backbone)
    if state_dict is not None:
        pretrained.load_pretrained(model.network, state_dict)
    setattr(model.network, layer, nn.Identity())
    return model


def measure_recall(model: ModelWithLoss, data: PackedDataset) -> dict[str, Any]:
    """Measure Recall@1 on the test images, and the speed of embedding them."""
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
    """Measure a network, print the figures and write them as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--images", type=Path, required=True, help="a zip with one folder per class"
    )
    parser.add_argument("--train", required=True, help="pattern of the training classes")
    parser.add_argument("--backbone", choices=BOTTLENECK, default="mobilenet_v2")
    parser.add_argument("--weights", default="imagenet", help="imagenet, none, or a file")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    device = setup_device(options.threads)
    with TemporaryDirectory() as folder:
        data = pack_archive(options.images, options.train, Path(folder))
        figures = measure_recall(pooled_model(options.backbone, options.weights), data)
    print(*(f"{name} {value}" for name, value in figures.items()), sep="\n")
    if options.json:
        record = {"backbone": options.backbone, **figures, **collect_environment(device)}
        options.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
