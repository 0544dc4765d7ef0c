"""Measure the speed of training, compared with its limit and with common libraries.

The limit: the same network, classifier, loss and optimizer step on one fixed batch on the device,
in the same precision. The libraries: torchvision's ImageFolder and transforms, DataLoader with
workers, float32, pytorch-metric-learning's NormalizedSoftmaxLoss. The images are those of a zip
with one folder per class. For 28 pixels they are resized in advance for both.

    python benchmarks/train.py --images cub100-cropped.zip --json benchmarks/results/train.json
"""

import argparse
import io
import json
import statistics
import time
import zipfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from heated.data.packed_dataset import InMemoryImages
from heated.models.embedding_model import Architecture, ModelWithLoss
from heated.runtime.device import (
    float32_products,
    keep_freed_memory,
    machine_settings,
    setup_device,
)
from heated.runtime.environment import collect_environment
from heated.training.gradient_step import GradientStep
from heated.training.loop import PRECISIONS, make_step, train_epoch
from heated.training.recipe import Recipe
from heated.training.train_state import TrainState

BATCH_NORM = {"batch_norm": {"momentum": 0.05, "eps": 1e-3, "frozen": False}, "frozen_blocks": 0}
# network: backbone, pixels as packed and as cropped, batch size
NETWORKS: dict[str, tuple[dict[str, Any], int, int, int]] = {
    "conv4": ({"name": "conv4", "width": 64}, 32, 28, 32),
    "lenet": ({"name": "lenet"}, 32, 28, 128),
    "mobilenet_v2": ({"name": "mobilenet_v2", **BATCH_NORM}, 256, 224, 32),
    "googlenet": ({"name": "googlenet", **BATCH_NORM}, 256, 224, 32),
}
LR = 0.001
Epoch = Callable[[], None]


def extract_images(archive: Path, folder: Path, count: int) -> None:
    """Extract `count` images of a zip into `folder`, spread evenly over its names."""
    with zipfile.ZipFile(archive) as file:
        names = [name for name in file.namelist() if name.endswith(".jpg")]
        every = max(1, len(names) // count)
        for name in names[::every][:count]:
            file.extract(name, folder)


def load_images(folder: Path, size: int) -> tuple[Tensor, Tensor]:
    """Load images as (N, size, size, 3) uint8 and labels (N,) from one folder per class."""
    paths = sorted(folder.glob("*/*"))
    classes = sorted({path.parent.name for path in paths})
    images = [np.asarray(Image.open(path).convert("RGB").resize((size, size))) for path in paths]
    labels = [classes.index(path.parent.name) for path in paths]
    return torch.from_numpy(np.stack(images)), torch.tensor(labels)


def write_pngs(images: Tensor, labels: Tensor, folder: Path) -> None:
    """Write the images as PNG files, in one folder per class."""
    for number, (image, label) in enumerate(zip(images.numpy(), labels.tolist(), strict=True)):
        path = folder / f"{label:04}" / f"{number:06}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        path.write_bytes(buffer.getvalue())


def make_recipe(backbone: dict[str, Any], crop: int, batch: int, here: dict[str, Any]) -> Recipe:
    """Return a recipe of one epoch with batch norm at alpha 16."""
    return Recipe(
        alphas=[16.0],
        lrs=[LR],
        eval_every=1,
        batch_size=batch,
        optimizer={"name": "sgd", "momentum": 0.9, "weight_decay": 0.0},
        bottleneck_lr_mult=1,
        classifier_lr_mult=1,
        init="none",
        backbone=backbone,
        weights="none",
        embedding_dim=64,
        augment=[{"name": "crop", "size": crop}, {"name": "flip", "p": 0.5}],
        pixel_mean=0.5,
        pixel_std=0.5,
        normalize={"name": "batch", "momentum": 0.05, "eps": 1e-3},
        bias="outside",
        **here,
    )


def start_training(model: ModelWithLoss, recipe: Recipe) -> tuple[TrainState, GradientStep]:
    """Return the state and the step of a training in its first epoch."""
    state = TrainState.create(model, recipe, seed=0)
    for group in state.optimizer.param_groups:
        group["lr"] = LR
    return state, make_step(state, recipe)


def heated_epoch(model: ModelWithLoss, images: Tensor, labels: Tensor, recipe: Recipe) -> Epoch:
    """Return a function that runs one epoch of this project's loop."""
    state, step = start_training(model, recipe)

    @float32_products(tf32=recipe.precision == "tf32")
    def epoch() -> None:
        state.step = 0
        train_epoch(state, InMemoryImages(images), labels, recipe, step)
        state.sums.tolist()  # waits for the device

    return epoch


def limit_epoch(model: ModelWithLoss, images: Tensor, labels: Tensor, recipe: Recipe) -> Epoch:
    """Return a function that runs as many steps on one fixed batch."""
    batch = recipe.batch_size
    fixed, target = model.prepare(images[:batch]), labels[:batch]
    state, step = start_training(model, recipe)

    @float32_products(tf32=recipe.precision == "tf32")
    def epoch() -> None:
        model.train()
        for _ in range(len(labels) // batch):
            sums = step(fixed, target, batch)
            state.optimizer.step()
        sums.tolist()

    return epoch


def torchvision_epoch(
    model: ModelWithLoss, folder: Path, *, batch: int, size: int, crop: int, workers: int
) -> Epoch:
    """Return a function that runs an epoch with torchvision and pytorch-metric-learning."""
    from pytorch_metric_learning.losses import NormalizedSoftmaxLoss
    from torch.utils.data import DataLoader
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    device = model.head.weight.device
    steps = [
        *([transforms.Resize((size, size))] if size > crop + 8 else []),
        transforms.RandomCrop(crop),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize([0.5] * 3, [0.5] * 3),
    ]
    data = ImageFolder(str(folder), transforms.Compose(steps))
    options = {"shuffle": True, "num_workers": workers, "persistent_workers": workers > 0}
    loader = DataLoader(data, batch, pin_memory=device.type == "cuda", **options)
    network = model.network.to(memory_format=torch.contiguous_format)
    head = NormalizedSoftmaxLoss(len(data.classes), 64, temperature=1 / 16).to(device)
    parameters = [*network.parameters(), *head.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=LR, momentum=0.9)

    def epoch() -> None:
        network.train()
        for images, labels in loader:
            loss = head(network(images.to(device)), labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        loss.item()

    return epoch


def time_epochs(epochs: dict[str, Epoch], repeats: int) -> dict[str, list[float]]:
    """Return the seconds of each repeat after the first; the epochs take turns.

    torchvision's epoch runs with the C library's default settings of memory.
    """
    seconds: dict[str, list[float]] = {name: [] for name in epochs}
    for repeat in range(repeats + 1):
        for name, epoch in epochs.items():
            keep_freed_memory(name != "otherwise")
            started = time.perf_counter()
            epoch()
            if repeat:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def bench_network(name: str, originals: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Measure images per second of all three, and this project's ratios to the others."""
    backbone, size, crop, batch = NETWORKS[name]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    settings = {"precision": options.precision, "cuda_graphs": not options.no_graphs}
    here = machine_settings(settings, device, threads=1)
    images, labels = (values.to(device) for values in load_images(originals, size))
    shape, classes = (size, size, 3), int(labels.max()) + 1
    with TemporaryDirectory() as temporary:
        folder = originals
        if size < 200:
            folder = Path(temporary)
            write_pngs(images.cpu(), labels.cpu(), folder)
        recipe, models = make_recipe(backbone, crop, batch, here), []
        architecture = Architecture.of(vars(recipe), image_shape=shape, num_classes=classes)
        for _ in range(3):
            torch.manual_seed(0)
            models.append(ModelWithLoss(architecture).to(device))
        common = {"batch": batch, "size": size, "crop": crop, "workers": options.workers}
        epochs = {
            "ours": heated_epoch(models[0], images, labels, recipe),
            "limit": limit_epoch(models[1], images, labels, recipe),
        }
        if not options.no_peers:
            epochs["otherwise"] = torchvision_epoch(models[2], folder, **common)
        seconds = time_epochs(epochs, options.repeats)
    rates = {key: len(labels) / statistics.median(values) for key, values in seconds.items()}
    to_limit = [b / a for a, b in zip(seconds["ours"], seconds["limit"], strict=True)]
    figures: dict[str, Any] = {
        "images_a_second": rates["ours"],
        "limit_images_a_second": rates["limit"],
        "ratio_to_limit": statistics.median(to_limit),
        "share_outside_network": max(0.0, 1 - statistics.median(to_limit)),
        "batch": batch,
        "precision": here["precision"],
        "cuda_graphs": here["cuda_graphs"],
    }
    if "otherwise" in seconds:
        to_peer = [b / a for a, b in zip(seconds["ours"], seconds["otherwise"], strict=True)]
        figures["otherwise_images_a_second"] = rates["otherwise"]
        figures["ratio_to_peer"] = statistics.median(to_peer)
    print(name, *(f"{key} {value}" for key, value in figures.items()), sep="\n  ", flush=True)
    return {f"{name}_{key}": value for key, value in figures.items()}


def main() -> None:
    """Measure all networks, print the figures and write them as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--images", type=Path, required=True, help="a zip with one folder per class"
    )
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--count", type=int, default=256, help="images (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="of the DataLoader")
    parser.add_argument("--precision", choices=["auto", *PRECISIONS], default="auto")
    parser.add_argument("--no-graphs", action="store_true", help="without CUDA graphs on a GPU")
    parser.add_argument("--no-peers", action="store_true", help="leave out other libraries")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    device = setup_device(options.threads)
    figures: dict[str, Any] = {
        key: getattr(options, key) for key in ("count", "repeats", "threads", "workers")
    }
    with TemporaryDirectory() as temporary:
        extract_images(options.images, Path(temporary), options.count)
        for name in options.networks:
            figures |= bench_network(name, Path(temporary), options)
    figures |= collect_environment(device)
    if not options.no_peers:
        figures["pytorch-metric-learning"] = version("pytorch-metric-learning")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
