"""How fast our training is, beside its limit and beside what one would write otherwise.

The limit: the same network, classifier, loss and optimiser step on one fixed batch that is already
there, in the same precision. The other: torchvision's ImageFolder and transforms, DataLoader with
workers, float32, pytorch-metric-learning's NormalizedSoftmaxLoss. The images are those of a zip
with a folder a class; at 28 pixels they are shrunk beforehand for both.

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

from heated.data.batches import Held
from heated.models.embedding_model import Architecture, Model
from heated.runtime.device import keep_freed_memory, machine_settings
from heated.runtime.environment import collect_environment
from heated.training.loop import PRECISIONS, Progress, train_epoch

BATCH_NORM = {"batch_norm": {"momentum": 0.05, "eps": 1e-3, "frozen": False}, "frozen_blocks": 0}
# network: backbone, pixels as packed and as cropped, images a batch
NETWORKS: dict[str, tuple[dict[str, Any], int, int, int]] = {
    "conv4": ({"name": "conv4", "width": 64}, 32, 28, 32),
    "lenet": ({"name": "lenet"}, 32, 28, 128),
    "mobilenet_v2": ({"name": "mobilenet_v2", **BATCH_NORM}, 256, 224, 32),
    "googlenet": ({"name": "googlenet", **BATCH_NORM}, 256, 224, 32),
}
SGD = {"name": "sgd", "momentum": 0.9, "weight_decay": 0.0}
LR = 0.001


def unpacked(archive: Path, folder: Path, count: int) -> None:
    """The first `count` images of a zip under `folder`, in a folder a class."""
    with zipfile.ZipFile(archive) as file:
        names = [name for name in file.namelist() if name.endswith(".jpg")]
        every = max(1, len(names) // count)
        for name in names[::every][:count]:
            file.extract(name, folder)


def packed(folder: Path, size: int) -> tuple[Tensor, Tensor]:
    """Images (N, size, size, 3) uint8 and labels (N,) of a folder with a folder a class."""
    paths = sorted(folder.glob("*/*"))
    classes = sorted({path.parent.name for path in paths})
    images = [np.asarray(Image.open(path).convert("RGB").resize((size, size))) for path in paths]
    labels = [classes.index(path.parent.name) for path in paths]
    return torch.from_numpy(np.stack(images)), torch.tensor(labels)


def shrunk(images: Tensor, labels: Tensor, folder: Path) -> None:
    """The images as PNG files in a folder a class."""
    for number, (image, label) in enumerate(zip(images.numpy(), labels.tolist(), strict=True)):
        path = folder / f"{label:04}" / f"{number:06}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        path.write_bytes(buffer.getvalue())


def built(backbone: dict[str, Any], shape: tuple[int, int, int], crop: int, classes: int) -> Model:
    """A model as a run would build it: bn at alpha 16."""
    torch.manual_seed(0)
    architecture = Architecture(
        image_shape=shape,
        num_classes=classes,
        embedding_dim=64,
        backbone=backbone,
        normalise={"name": "batch", "momentum": 0.05, "eps": 1e-3},
        bias="outside",
        label_smoothing=0.0,
        augment=[{"name": "crop", "size": crop}, {"name": "flip", "probability": 0.5}],
        pixel_mean=0.5,
        pixel_std=0.5,
    )
    return Model(architecture)


def ours(model: Model, images: Tensor, labels: Tensor, *, batch: int, dtype: str) -> Any:
    """An epoch of our loop."""
    progress = Progress.begin(model, SGD, head_lr_factor=1)
    for group in progress.optimiser.param_groups:
        group["lr"] = LR

    def epoch() -> None:
        progress.step = 0
        train_epoch(
            progress,
            Held(images),
            labels,
            batch_size=batch,
            sampler={"name": "shuffled"},
            precision=dtype,
            epoch_seed=0,
            keep=lambda progress: None,
        )
        progress.sums.tolist()  # waits for the device

    return epoch


def limit(model: Model, images: Tensor, labels: Tensor, *, batch: int, dtype: str) -> Any:
    """As many steps on one batch that is there."""
    steps, target = len(labels) // batch, labels[:batch]
    fixed = model.prepare(images[:batch])
    optimiser = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9, fused=True)

    def epoch() -> None:
        model.train()
        for _ in range(steps):
            with torch.autocast(fixed.device.type, PRECISIONS[dtype], dtype != "float32"):
                raw = model.network(fixed)
            loss = model.head(model.normalization(raw.float()), target)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        loss.item()

    return epoch


def otherwise(
    model: Model, folder: Path, *, batch: int, size: int, crop: int, workers: int
) -> Callable[[], None]:
    """An epoch as one would write it with torchvision and pytorch-metric-learning; workers stay."""
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
    optimiser = torch.optim.SGD(parameters, lr=LR, momentum=0.9)

    def epoch() -> None:
        network.train()
        for images, labels in loader:
            loss = head(network(images.to(device)), labels.to(device))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        loss.item()

    return epoch


def measured(epochs: dict[str, Callable[[], None]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each repeat, in turn; the first of each is not counted. The others' memory is as
    the C library has it."""
    seconds: dict[str, list[float]] = {name: [] for name in epochs}
    for repeat in range(repeats + 1):
        for name, epoch in epochs.items():
            keep_freed_memory(name != "otherwise")
            started = time.perf_counter()
            epoch()
            if repeat:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def bench(name: str, originals: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Images a second of all three, and our ratios."""
    backbone, size, crop, batch = NETWORKS[name]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = machine_settings(options.precision, device, 1)["precision"]
    images, labels = (values.to(device) for values in packed(originals, size))
    shape, classes = (size, size, 3), int(labels.max()) + 1
    with TemporaryDirectory() as temporary:
        folder = originals
        if size < 200:
            folder = Path(temporary)
            shrunk(images.cpu(), labels.cpu(), folder)
        models = [built(backbone, shape, crop, classes).to(device) for _ in range(3)]
        common = {"batch": batch, "size": size, "crop": crop, "workers": options.workers}
        epochs = {
            "ours": ours(models[0], images, labels, batch=batch, dtype=dtype),
            "limit": limit(models[1], images, labels, batch=batch, dtype=dtype),
            "otherwise": otherwise(models[2], folder, **common),
        }
        seconds = measured(epochs, options.repeats)
    rates = {key: len(labels) / statistics.median(values) for key, values in seconds.items()}
    limits = [b / a for a, b in zip(seconds["ours"], seconds["limit"], strict=True)]
    others = [b / a for a, b in zip(seconds["ours"], seconds["otherwise"], strict=True)]
    figures = {
        "images_a_second": rates["ours"],
        "limit_images_a_second": rates["limit"],
        "otherwise_images_a_second": rates["otherwise"],
        "ratio_to_limit": statistics.median(limits),
        "ratio_to_peer": statistics.median(others),
        "share_outside_network": max(0.0, 1 - statistics.median(limits)),
        "batch": batch,
        "precision": dtype,
    }
    print(name, *(f"{key} {value}" for key, value in figures.items()), sep="\n  ", flush=True)
    return {f"{name}_{key}": value for key, value in figures.items()}


def main() -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, required=True, help="a zip with a folder a class")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--count", type=int, default=256, help="images (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="of the CPU (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="of the other's loader")
    parser.add_argument("--precision", choices=["auto", *PRECISIONS], default="auto")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    figures: dict[str, Any] = {
        key: getattr(options, key) for key in ("count", "repeats", "threads", "workers")
    }
    with TemporaryDirectory() as temporary:
        unpacked(options.images, Path(temporary), options.count)
        for name in options.networks:
            figures |= bench(name, Path(temporary), options)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    figures |= collect_environment(device)
    figures["pytorch-metric-learning"] = version("pytorch-metric-learning")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
