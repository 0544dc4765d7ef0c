"""On a GPU: trainings, embeddings and metrics equal those of the CPU within tolerance.

Run with `pytest -m gpu`. On a machine without a GPU every test skips.
"""

import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch import nn

from heated.common.history import NullLogger
from heated.common.samples import Split
from heated.data.batches import Mapped
from heated.data.packed_dataset import Packed
from heated.evaluation.metrics import evaluate
from heated.models.embedding import embed
from heated.models.embedding_model import Architecture, Model, load
from heated.runtime.device import peak_memory_mib, prepared
from heated.runtime.environment import SystemMetricsLogger
from heated.training.recipe import Recipe
from heated.training.training_run import Run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
CPU, GPU = torch.device("cpu"), torch.device("cuda")
BATCH = {"name": "batch", "momentum": 0.05, "eps": 1e-3}
STEP = {"name": "step", "start": 16, "end": 4, "at": 0.5}
SETTINGS = {
    "backbone": {"name": "conv4", "width": 16},
    "weights": "none",
    "warm_up": "none",
    "bottleneck_lr_factor": 1,
    "head_lr_factor": 1,
    "embedding_dim": 8,
    "epochs": 3,
    "watch_every": 1,
    "batch_size": 8,
    "lr": 0.02,
    "optimiser": {"name": "sgd", "momentum": 0.9, "weight_decay": 1e-4},
    "augment": [{"name": "affine", "degrees": 10, "scale": 0.1, "shear": 5, "shift": 0.1}],
    "pixel_mean": 0.5,
    "pixel_std": 0.5,
    "normalise": BATCH,
    "bias": "outside",
    "label_smoothing": 0.0,
    "alpha": STEP,
    "lr_factor": {"name": "constant", "value": 1},
    "threads": 1,
    "precision": "float32",
}
SCHEDULED = {"bias": "none", "alpha": {"name": "learned", "start": 16}}
LIBRARY = {"normalise": {"name": "none"}, "bias": "none", "alpha": None, "head_lr_factor": 8}
VARIANTS = {
    "plain softmax": {"normalise": {"name": "none"}, "alpha": {"name": "constant", "value": 1}},
    "label smoothing": {"normalise": {"name": "none"}, "label_smoothing": 0.1},
    "l2": {"normalise": {"name": "l2"}},
    "l2 embeddings": {"normalise": {"name": "l2_embeddings"}},
    "batch norm": {},
    "bias inside": {"bias": "inside"},
    "other classes": {"normalise": {"name": "l2"}, "bias": "none", "denominator": "others"},
    "learned alpha": SCHEDULED,
    "adacos": SCHEDULED | {"normalise": {"name": "l2"}, "alpha": {"name": "adacos"}},
    "adam": {"optimiser": {"name": "adam", "eps": 0.01, "weight_decay": 0.0}, "lr": 0.002},
    "adam_tf": {"optimiser": {"name": "adam_tf", "eps": 0.01}, "lr": 0.002},
    "warm-up": {"warm_up": "batch_norm"},
    "class means": {"warm_up": "class_means"},
    "lenet": {"backbone": {"name": "lenet"}},
    "per class": {"sampler": {"name": "per_class", "images": 2}},
    "flip": {"augment": [{"name": "crop", "size": 6}, {"name": "flip", "probability": 0.5}]},
    "resized crop": {
        "augment": [{"name": "resized_crop", "size": 8, "smallest": 0.5, "aspect": 1.3}]
    },
    "arcface": LIBRARY | {"loss": {"name": "arcface", "margin": 28.6, "scale": 16}},
    "triplet": LIBRARY
    | {
        "loss": {"name": "triplet", "margin": 0.2},
        "miner": {"name": "triplet", "margin": 0.2, "type_of_triplets": "semihard"},
        "sampler": {"name": "per_class", "images": 2},
    },
}


@pytest.fixture(autouse=True, scope="module")
def device():
    """The device of a stage, with its flags."""
    return prepared(1)


@pytest.fixture(scope="module")
def packed():
    """Three classes of blurred noise to train on, and two to test on."""
    labels = np.repeat([3, 5, 9, 1, 2], [16, 16, 16, 12, 12])
    random = np.random.default_rng(0)
    means = random.integers(60, 196, size=(10, 8, 8, 1))
    images = (means[labels] + random.integers(-40, 40, size=(72, 8, 8, 1))).astype(np.uint8)
    train = labels >= 3
    return Packed(images, labels, tuple("abcdefghij"), Split(train, ~train, ~train))


def run_on(device, packed, cache, **changes):
    return Run(Recipe.from_settings(SETTINGS | changes), packed, "data", device, cache)


def trained(device, packed, folder, **changes):
    """The history of a training, and the embeddings of all images by the saved model."""
    run = run_on(device, packed, folder / f"cache-{device.type}", **changes)
    path = folder / device.type
    path.mkdir(parents=True, exist_ok=True)
    history = run.finish([0], path, NullLogger())[0]["history"]
    images = Mapped(packed.images, np.arange(len(packed.labels)), device)
    return history, embed(load(path / "seed-0.safetensors", device), images, quiet=True).cpu()


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_training_is_that_of_the_cpu_within_tolerance(variant, packed, tmp_path):
    if VARIANTS[variant].get("loss") and not find_spec("pytorch_metric_learning"):
        pytest.skip("needs pytorch-metric-learning")
    here, there = (trained(each, packed, tmp_path, **VARIANTS[variant]) for each in (CPU, GPU))
    for expected, found in zip(here[0], there[0], strict=True):
        assert found.keys() == expected.keys()
        for name in ("loss", "lr", "alpha"):
            assert found.get(name, 0) == pytest.approx(expected.get(name, 0), rel=2e-3), name
    scale = here[1].abs().max()
    torch.testing.assert_close(there[1] / scale, here[1] / scale, rtol=0, atol=5e-3)


def test_a_training_in_bfloat16_stays_near_float32(packed, tmp_path):
    gentle = {"lr": 0.002, "alpha": {"name": "constant", "value": 4}}
    low, full = (
        trained(GPU, packed, tmp_path / name, precision=name, **gentle)[0]
        for name in ("bfloat16", "float32")
    )
    for expected, found in zip(full, low, strict=True):
        assert found["loss"] == pytest.approx(expected["loss"], rel=0.05)


def test_float32_is_float32_in_convolutions_and_products():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 64, 16, 16, generator=generator)
    kernel = torch.randn(64, 64, 3, 3, generator=generator)
    exact = nn.functional.conv2d(images.double(), kernel.double())
    found = nn.functional.conv2d(images.to(GPU), kernel.to(GPU)).cpu().double()
    assert (found - exact).norm() / exact.norm() < 1e-5
    a, b = torch.randn(2, 512, 512, generator=generator)
    error = (a.to(GPU) @ b.to(GPU)).cpu().double() - a.double() @ b.double()
    assert error.norm() / (a.double() @ b.double()).norm() < 1e-5


def test_a_training_resumes_where_it_stopped(packed, tmp_path):
    whole = trained(GPU, packed, tmp_path / "whole")
    run = run_on(GPU, packed, tmp_path / "cache-cuda")
    kept = run.checkpoints(0)

    class Stopped(Exception):
        pass

    def stop(row):
        if row["epoch"] == 1:
            raise Stopped

    with pytest.raises(Stopped):
        run.finished(0, tmp_path / "seed-0.safetensors", stop)
    assert kept.latest() is not None
    history, embeddings = trained(GPU, packed, tmp_path)
    for expected, found in zip(whole[0], history, strict=True):
        assert found["loss"] == pytest.approx(expected["loss"], rel=2e-3)
    scale = whole[1].abs().max()
    torch.testing.assert_close(embeddings / scale, whole[1] / scale, rtol=0, atol=5e-3)


@pytest.mark.parametrize("name", ["mobilenet_v2", "googlenet", "resnet50"])
def test_a_large_network_computes_what_it_computes_on_the_cpu(name):
    side = 64
    torch.manual_seed(0)
    norm = {"momentum": 0.1, "eps": 1e-5, "frozen": True}
    architecture = Architecture.of(
        SETTINGS
        | {"augment": [], "backbone": {"name": name, "batch_norm": norm, "frozen_blocks": 2}},
        image_shape=(side, side, 3),
        num_classes=5,
    )
    model = Model(architecture).eval()
    images = torch.randint(256, (4, side, side, 3), dtype=torch.uint8)
    with torch.inference_mode():
        here = model(images)
        there = model.to(GPU)(images.to(GPU)).cpu()
    torch.testing.assert_close(there / here.abs().max(), here / here.abs().max(), rtol=0, atol=1e-4)


def test_metrics_are_those_of_the_cpu():
    random = np.random.default_rng(0)
    labels = torch.from_numpy(random.integers(20, size=600))
    centers = torch.from_numpy(random.normal(size=(20, 16)))
    embeddings = (centers[labels] + 0.9 * torch.from_numpy(random.normal(size=(600, 16)))).float()
    every = torch.ones(600, dtype=torch.bool)
    settings = {
        "recall_at": [1, 4],
        "kmeans": {"name": "lloyd", "restarts": 2, "iterations": 20},
        "kmeans_seeds": [0, 1],
        "memory_mib": 64,
    }
    arrays = {"embeddings": embeddings, "labels": labels, "query": every, "gallery": every}
    here, there = (
        evaluate({name: array.to(each) for name, array in arrays.items()}, **settings)
        for each in (CPU, GPU)
    )
    assert there == pytest.approx(here, rel=1e-6)


def test_memory_and_usage_are_measured_and_end_nothing():
    held = torch.zeros(2**22, device=GPU)
    assert peak_memory_mib(GPU) >= held.nbytes // 2**20
    rows = []

    class Kept:
        def log(self, seed, row):
            rows.append(row)

    usage = SystemMetricsLogger(GPU, Kept())
    usage.since -= 1
    usage.log(0, {"epoch": 0})
    assert rows[0]["system/gpu_memory_megabytes"] > 0


TORCHRUN = """
import sys; sys.path[:0] = {path!r}
from pathlib import Path
import numpy as np, torch
from test_gpu import NullLogger, Packed, Recipe, Run, SETTINGS, Split, prepared
device = prepared(1)
labels = np.repeat([3, 5, 9, 1, 2], [16, 16, 16, 12, 12])
images = np.random.default_rng(0).integers(256, size=(72, 8, 8, 1), dtype=np.uint8)
data = Packed(images, labels, tuple("abcdefghij"), Split(labels >= 3, labels < 3, labels < 3))
run = Run(Recipe.from_settings(SETTINGS), data, "data", device, Path({folder!r}) / "cache")
done = run.finish([0], Path({folder!r}) / "models", NullLogger())
print("loss", done[0]["history"][-1]["loss"])
"""


def test_one_process_of_torchrun_trains_as_python_does(tmp_path):
    losses = []
    for number, start in enumerate(([], ["-m", "torch.distributed.run", "--nproc-per-node=1"])):
        folder = tmp_path / str(number)
        (folder / "models").mkdir(parents=True)
        script = folder / "script.py"
        script.write_text(TORCHRUN.format(path=sys.path, folder=str(folder)), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, *start, str(script)],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert done.returncode == 0, done.stderr[-3000:]
        losses.append(float(done.stdout.rpartition("loss")[2]))
    assert losses[1] == pytest.approx(losses[0], rel=2e-3)


def test_a_model_trained_on_a_gpu_loads_on_a_cpu(packed, tmp_path):
    _, there = trained(GPU, packed, tmp_path)
    images = Mapped(packed.images, np.arange(len(packed.labels)), CPU)
    here = embed(load(tmp_path / "cuda" / "seed-0.safetensors", CPU), images, quiet=True)
    torch.testing.assert_close(here, there, rtol=1e-3, atol=1e-4)


def test_the_device_is_part_of_a_trainings_identity(packed, tmp_path):
    run = run_on(GPU, packed, tmp_path)
    assert run.key(0) != replace(run, device=CPU).key(0)
