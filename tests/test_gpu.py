"""On a GPU: trainings, embeddings and metrics equal those of the CPU within tolerance.

Run with `pytest -m gpu`. On a machine without a GPU every test skips.
"""

import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from recipes import SETTINGS, SGD, make_recipe
from torch import nn

from heated.common.history import NullLogger
from heated.common.samples import Split
from heated.data import packed_dataset
from heated.data.packed_dataset import MemmapImages, PackedDataset, device_images
from heated.evaluation.metrics import evaluate_by_class
from heated.models.embedding_model import Architecture, ModelWithLoss, embed, load_model
from heated.runtime.device import has_tf32, machine_settings, peak_memory_mib, setup_device
from heated.runtime.environment import SystemMetricsLogger
from heated.training.gradient_step import GraphedStep
from heated.training.loop import make_step, train_epoch
from heated.training.training_run import TrainingRun

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
CPU, GPU = torch.device("cpu"), torch.device("cuda")
CHANGES = {  # of SETTINGS
    "backbone": {"name": "conv4", "width": 16},
    "embedding_dim": 8,
    "epochs": 3,
    "lr": 0.02,
    "optimizer": SGD | {"weight_decay": 1e-4},
    "lr_schedule": {"name": "constant", "value": 1},
}
L2, NO_NORMALIZATION, PER_CLASS = {"name": "l2"}, {"name": "none"}, {"name": "per_class"}
LEARNED = {"bias": "none", "alpha": {"name": "learned", "start": 16}}
PML = {"normalize": NO_NORMALIZATION, "bias": "none", "alpha": None, "classifier_lr_mult": 8}
TRIPLET = {"name": "triplet", "margin": 0.2}
RESIZED_CROP = {"name": "resized_crop", "size": 8, "min_scale": 0.5, "max_ratio": 1.3}
VARIANTS = {
    "plain softmax": {"normalize": NO_NORMALIZATION, "alpha": {"name": "constant", "value": 1}},
    "label smoothing": {"normalize": NO_NORMALIZATION, "label_smoothing": 0.1},
    "l2": {"normalize": L2},
    "l2 embeddings": {"normalize": {"name": "l2_embeddings"}},
    "batch norm": {},
    "bias inside": {"bias": "inside"},
    "negatives only": {"normalize": L2, "bias": "none", "denominator": "negatives_only"},
    "learned alpha": LEARNED,
    "adacos": LEARNED | {"normalize": L2, "alpha": {"name": "adacos"}},
    "adam": {"optimizer": {"name": "adam", "eps": 0.01, "weight_decay": 0.0}, "lr": 0.002},
    "adam_tf": {"optimizer": {"name": "adam_tf", "eps": 0.01}, "lr": 0.002},
    "batch norm statistics": {"init": "batch_norm"},
    "class means": {"init": "class_means"},
    "lenet": {"backbone": {"name": "lenet"}},
    "per class": {"sampler": PER_CLASS | {"images": 2}},
    "a smaller last batch": {"batch_size": 9},
    "flip": {"augment": [{"name": "crop", "size": 6}, {"name": "flip", "p": 0.5}]},
    "resized crop": {"augment": [RESIZED_CROP]},
    "arcface": PML | {"loss": {"name": "arcface", "margin": 28.6, "scale": 16}},
    "triplet": PML
    | {"loss": TRIPLET, "miner": TRIPLET | {"type_of_triplets": "semihard"}}
    | {"sampler": PER_CLASS | {"images": 2}},
}


@pytest.fixture(autouse=True, scope="module")
def device():
    """The device of a stage, with its flags."""
    return setup_device(1)


def make_data():
    """Three training classes and two test classes of blurred noise."""
    labels = np.repeat([3, 5, 9, 1, 2], [16, 16, 16, 12, 12])
    random = np.random.default_rng(0)
    means = random.integers(60, 196, size=(10, 8, 8, 1))
    images = (means[labels] + random.integers(-40, 40, size=(72, 8, 8, 1))).astype(np.uint8)
    train = labels >= 3
    return PackedDataset(images, labels, tuple("abcdefghij"), Split(train, ~train, ~train))


def make_run(device, cache, *, cuda_graphs=True, **changes):
    settings = SETTINGS | CHANGES | changes | {"cuda_graphs": cuda_graphs}
    recipe = make_recipe(**settings | machine_settings(settings, device, 1))
    return TrainingRun(recipe, make_data(), "data", device, cache)


def all_embeddings(path, device):
    images = make_data().images
    mapped = MemmapImages(images, np.arange(len(images)), device)
    return embed(load_model(path, device), mapped, quiet=True)


def fit(device, folder, **changes):
    """The history of a training, and the embeddings of all images by the saved model."""
    path = folder / device.type
    path.mkdir(parents=True, exist_ok=True)
    run = make_run(device, folder / f"cache-{device.type}", **changes)
    history = run.train_seeds([0], path, NullLogger())[0]["history"]
    return history, all_embeddings(path / "seed-0.safetensors", device).cpu()


def assert_close(found, expected, atol=5e-3):
    scale = expected.abs().max()
    torch.testing.assert_close(found / scale, expected / scale, rtol=0, atol=atol)


def assert_equal_losses(found, expected, rel=2e-3):
    losses = [row["loss"] for row in expected]
    assert [row["loss"] for row in found] == pytest.approx(losses, rel=rel)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_training_equals_that_of_the_cpu_within_tolerance(variant, tmp_path):
    if VARIANTS[variant].get("loss") and not find_spec("pytorch_metric_learning"):
        pytest.skip("needs pytorch-metric-learning")
    (expected, here), (found, there) = (
        fit(each, tmp_path, **VARIANTS[variant]) for each in (CPU, GPU)
    )
    assert_equal_losses(found, expected)
    for row, other in zip(expected, found, strict=True):
        assert other.keys() == row.keys()
        for name in ("lr", "alpha"):
            assert other.get(name, 0) == pytest.approx(row.get(name, 0), rel=2e-3), name
    assert_close(there, here)
    loaded = all_embeddings(tmp_path / GPU.type / "seed-0.safetensors", CPU)
    torch.testing.assert_close(loaded, there, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("precision", ["bfloat16", "tf32"])
def test_a_training_in_lower_precision_stays_close_to_float32(precision, tmp_path):
    if precision == "tf32" and not has_tf32(GPU):
        pytest.skip("needs a GPU with TF32")
    gentle = {"lr": 0.002, "alpha": {"name": "constant", "value": 4}}
    low, full = (
        fit(GPU, tmp_path / name, precision=name, **gentle)[0] for name in (precision, "float32")
    )
    assert_equal_losses(low, full, rel=0.05)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
@pytest.mark.parametrize("variant", [name for name in VARIANTS if "loss" not in VARIANTS[name]])
def test_no_step_waits_for_the_gpu(variant, tmp_path):
    changes = VARIANTS[variant] | {"sampler": {"name": "shuffled"}}
    run = make_run(GPU, tmp_path, **changes)
    state, _ = run.load_or_initialize(0)
    mapped, labels = run.mapped_images(run.data.split.train)
    images = device_images(run.data.images, mapped.indices, GPU)
    step = make_step(state, run.recipe)
    for mode in ("default", "error"):  # the first epoch allocates, and chooses algorithms
        state.step = 0
        torch.cuda.set_sync_debug_mode(mode)
        try:
            train_epoch(state, images, labels, run.recipe, step)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert state.sums.isfinite().all()


def test_convolutions_and_products_use_float32_and_not_tf32():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 64, 16, 16, generator=generator)
    kernel = torch.randn(64, 64, 3, 3, generator=generator)
    a, b = torch.randn(2, 512, 512, generator=generator)
    for function, inputs in ((nn.functional.conv2d, (images, kernel)), (torch.matmul, (a, b))):
        exact = function(*(each.double() for each in inputs))
        found = function(*(each.to(GPU) for each in inputs)).cpu().double()
        assert (found - exact).norm() / exact.norm() < 1e-5


def test_an_interrupted_training_resumes(tmp_path):
    expected, expected_embeddings = fit(GPU, tmp_path / "uninterrupted")
    history, embeddings = fit_in_two_parts(tmp_path)
    assert_equal_losses(history, expected)
    assert_close(embeddings, expected_embeddings)


def fit_in_two_parts(folder, **changes):
    """As `fit` on the GPU, but interrupted after the second epoch."""
    run = make_run(GPU, folder / f"cache-{GPU.type}", **changes)

    def interrupt(row):
        if row["epoch"] == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.train_seed(0, folder / "seed-0.safetensors", interrupt)
    assert run.checkpoints(0).load_latest() is not None
    return fit(GPU, folder, **changes)


DETERMINISTIC = """
from test_gpu import GPU, fit, fit_in_two_parts
setup_device(1, True)
variant = {"init": "class_means", "optimizer": {"name": "adam_tf", "eps": 0.01}, "lr": 0.002}
one, two = fit(GPU, folder / "1", **variant), fit(GPU, folder / "2", **variant)
assert one[0] == two[0] and torch.equal(one[1], two[1]), "repeated"
three = fit_in_two_parts(folder / "3", **variant)
assert one[0] == three[0] and torch.equal(one[1], three[1]), "resumed"
"""


def test_deterministic_trainings_have_the_same_bits_repeated_and_resumed(tmp_path):
    run_script(tmp_path, DETERMINISTIC)


GRAPHS = """
from test_gpu import GPU, VARIANTS, fit, fit_in_two_parts
setup_device(1, True)
variant = VARIANTS[{variant!r}]
one, two = (fit(GPU, folder / str(each), cuda_graphs=each, **variant) for each in (True, False))
assert one[0] == two[0] and torch.equal(one[1], two[1]), "without graphs"
three = fit_in_two_parts(folder / "3", **variant)
assert one[0] == three[0] and torch.equal(one[1], three[1]), "resumed"
"""


@pytest.mark.parametrize(
    "variant", ["batch norm", "learned alpha", "adacos", "adam_tf", "a smaller last batch", "flip"]
)
def test_cuda_graphs_change_no_bit_and_resume(variant, tmp_path):
    run_script(tmp_path, GRAPHS.replace("{variant!r}", repr(variant)))


def test_a_graph_follows_alpha_and_the_weights_and_takes_batches_of_other_sizes(tmp_path):
    run = make_run(GPU, tmp_path)
    state, _ = run.load_or_initialize(0)
    step, plain = (
        make_step(state, run.recipe),
        make_step(state, replace(run.recipe, cuda_graphs=False)),
    )
    assert isinstance(step, GraphedStep)
    assert not isinstance(plain, GraphedStep)
    model, size = state.model.train(), run.recipe.batch_size
    for number in range(12):
        count = size if number % 4 else size - 3
        images = torch.randint(256, (count, 8, 8, 1), dtype=torch.uint8, device=GPU)
        prepared, labels = model.prepare(images), torch.randint(3, (count,), device=GPU)
        state.model.head.alpha = 16 / (number + 1)
        buffers = [each.clone() for each in model.buffers()]
        expected, gradients = plain(prepared, labels, count), [*all_gradients(model)]
        for buffer, before in zip(model.buffers(), buffers, strict=True):
            buffer.copy_(before)  # the running mean and variance
        torch.testing.assert_close(step(prepared, labels, count), expected)
        for found, gradient in zip(all_gradients(model), gradients, strict=True):
            torch.testing.assert_close(found, gradient)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.01 * torch.randn_like(parameter))


def test_images_that_do_not_fit_are_read_while_graphs_run(monkeypatch, tmp_path):
    expected, embeddings = fit(GPU, tmp_path / "on the GPU")
    monkeypatch.setattr(packed_dataset, "image_budget", lambda device: 0)
    found, others = fit(GPU, tmp_path / "mapped")
    assert_equal_losses(found, expected)
    assert_close(others, embeddings)


def all_gradients(model):
    return (each.grad.clone() for each in model.parameters())


@pytest.mark.parametrize("name", ["mobilenet_v2", "googlenet", "resnet50"])
def test_a_large_network_gives_the_cpus_embeddings(name):
    torch.manual_seed(0)
    norm = {"momentum": 0.1, "eps": 1e-5, "frozen": True}
    backbone = {"name": name, "batch_norm": norm, "frozen_blocks": 2}
    settings = SETTINGS | CHANGES | {"augment": [], "backbone": backbone}
    model = ModelWithLoss(Architecture.of(settings, image_shape=(64, 64, 3), num_classes=5)).eval()
    images = torch.randint(256, (4, 64, 64, 3), dtype=torch.uint8)
    with torch.inference_mode():
        here = model(images)
        assert_close(model.to(GPU)(images.to(GPU)).cpu(), here, atol=1e-4)


@pytest.mark.parametrize("name", ["lloyd", "scikit-learn"])
def test_metrics_equal_those_of_the_cpu(name):
    torch.manual_seed(0)
    labels = torch.randint(300, (2000,))
    embeddings = torch.randn(300, 64)[labels] + 0.9 * torch.randn(2000, 64)
    kmeans = {"restarts": 2} | ({"iterations": 20} if name == "lloyd" else {}) | {"name": name}
    settings = {"recall_at": [1, 100], "kmeans": kmeans, "kmeans_seeds": [0, 1], "memory_mib": 64}
    found = {}
    for each in (CPU, GPU):
        every = torch.ones(2000, dtype=torch.bool)
        arrays = {"embeddings": embeddings, "labels": labels, "query": every, "gallery": every}
        found[each], rows = evaluate_by_class(
            {k: v.to(each) for k, v in arrays.items()}, **settings
        )
        assert len(rows) == len(labels.unique())
    assert found[GPU] == pytest.approx(found[CPU], rel=1e-6)


def test_memory_and_usage_of_the_gpu_are_measured():
    block, rows = torch.zeros(2**22, device=GPU), []
    assert peak_memory_mib(GPU) >= block.nbytes // 2**20

    class RowLogger:
        def log(self, seed, row):
            rows.append(row)

    usage = SystemMetricsLogger(GPU, RowLogger())
    usage.since -= 1
    usage.log(0, {"epoch": 0})
    assert rows[0]["system/gpu_memory_megabytes"] > 0


START = """
import sys; sys.path[:0] = {path!r}
from pathlib import Path
import torch
from test_gpu import NullLogger, make_run, setup_device
folder = Path({folder!r})
"""
TRAIN = """
run = make_run(setup_device(1), folder / "cache")
results = run.train_seeds([0], folder / "models", NullLogger())
print("loss", results[0]["history"][-1]["loss"], flush=True)
"""


def run_script(folder, text, *launcher):
    """Run a script in processes of its own, and return what it prints."""
    folder.mkdir(exist_ok=True)
    script, path = folder / "script.py", [str(Path(__file__).parent), *sys.path]
    start = START.format(path=path, folder=str(folder))
    script.write_text(start + text, encoding="utf-8")
    command = [sys.executable, *launcher, str(script)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("processes", [1, 2])
def test_processes_of_torchrun_train_as_python_does(processes, tmp_path):
    if torch.cuda.device_count() < processes:
        pytest.skip(f"needs {processes} GPUs")
    torchrun = ("-m", "torch.distributed.run", f"--nproc-per-node={processes}")
    losses = []
    for name, launcher in (("python", ()), ("torchrun", torchrun)):
        printed = run_script(tmp_path / name, TRAIN, *launcher)
        losses.append(float(printed.split("loss")[1].split()[0]))
    assert losses[1] == pytest.approx(losses[0], rel=2e-3)
