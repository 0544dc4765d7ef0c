import json
import os
import shutil
import subprocess
import sys
from copy import deepcopy
from functools import partial

import numpy as np
import pytest
import torch
from conftest import ROOT, SHORT
from safetensors.numpy import load_file
from test_fake_gpu import move_registered
from torch import nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode

from heated import config
from heated.common.history import read_history
from heated.common.io import write_arrays, write_record
from heated.config.resolved import resolved_files
from heated.runtime import distributed


def launcher(processes):
    """The start of a command: python, or torchrun for several processes."""
    torchrun = ("-m", "torch.distributed.run", f"--nproc-per-node={processes}")
    return (sys.executable, *(torchrun if processes > 1 else ()))


def launch(processes, *command, folder=ROOT):
    """Run a command on the CPU, with the tests' helpers and the stages on the path."""
    code = os.pathsep.join(str(ROOT / name) for name in ("", "src", "tests"))
    env = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": code}
    full = [*launcher(processes), *map(str, command)]
    done = subprocess.run(full, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


INITIALIZE = """
import sys
from pathlib import Path
import torch
from heated.data.packed_dataset import InMemoryImages
from heated.models.embedding_model import Architecture, ModelWithLoss, save_model
from heated.runtime.device import setup_device
from heated.runtime.distributed import is_main_process, sync_batch_norm
from heated.training.initialization import INITIALIZERS
from recipes import SETTINGS

device = setup_device(1)
torch.manual_seed(0)
settings = SETTINGS | {"embedding_dim": 6}
model = ModelWithLoss(Architecture.of(settings, image_shape=(8, 8, 1), num_classes=4))
sync_batch_norm(model)
images = torch.randint(256, (101, 8, 8, 1), dtype=torch.uint8)  # slices of different sizes
options = {"batch_size": 9, "precision": "float32"}
INITIALIZERS["class_means"](model, InMemoryImages(images), torch.arange(101) % 4, **options)
if is_main_process():
    save_model(Path(sys.argv[1]), model)
"""


@pytest.mark.slow
def test_several_processes_initialize_as_one_does(tmp_path):
    script, models = tmp_path / "script.py", {}
    script.write_text(INITIALIZE, encoding="utf-8")
    for processes in (1, 3):
        launch(processes, script, tmp_path / f"{processes}.safetensors")
        models[processes] = load_file(tmp_path / f"{processes}.safetensors")
    for name, values in models[1].items():
        np.testing.assert_allclose(models[3][name], values, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_the_stage_writes_the_very_same_metrics_from_two_processes(tmp_path):
    run, labels = tmp_path / "runs/digits/hbn", np.arange(3000) % 400
    for seed in (0, 1):
        random = np.random.default_rng(seed)
        noise, centers = random.normal(size=(3000, 24)), random.normal(size=(400, 24))
        arrays = {"embeddings": (centers[labels] + 1.5 * noise).astype(np.float32)}
        masks = dict.fromkeys(("query", "gallery"), np.ones(3000, dtype=bool))
        write_arrays(run / "embeddings" / f"seed-{seed}.npz", **arrays, labels=labels, **masks)
    settings = resolved_files(config.load_params(ROOT))["evaluation/digits.json"]
    lloyd = {"name": "lloyd", "restarts": 2, "iterations": 5}
    settings["evaluation"] |= {"kmeans": lloyd, "recall_at": [1, 10, 100], "memory_mib": 1}
    write_record(tmp_path / "data/resolved/evaluation/digits.json", settings)
    written = []
    for processes in (1, 2):
        launch(processes, "-m", "stages.evaluate", "digits", "hbn", folder=tmp_path)
        written.append((run / "metrics.json").read_text(encoding="utf-8"))
    assert written[0] == written[1]
    assert json.loads(written[0])["recall_at_1"]["n"] == 2


TRAINING = "datasets.digits.training"
# Slices of different sizes, also of the last batch.
PARAMS = {**SHORT, f"{TRAINING}.epochs": 3, f"{TRAINING}.batch_size": 97}
RUN = "runs/digits/hbn"
TRAIN = ("-m", "stages.train", "digits", "hbn")


@pytest.mark.slow
def test_several_processes_train_and_resume_as_one_does(project):
    project.edit(PARAMS)
    for stage in (("resolve",), ("download", "digits"), ("split", "digits")):
        project.stage(*stage)
    weights, histories = {}, []
    for count in (3, 1):
        for old in ("checkpoints", RUN):
            shutil.rmtree(project.folder / old, ignore_errors=True)
        project.run(*launcher(count), *TRAIN, HEATED_TRACKING="off")
        weights[count] = load_file(project.folder / RUN / "models" / "seed-0.safetensors")
        histories.append(read_history(project.folder / RUN / "history.csv")[0])
    for name, values in weights[1].items():
        np.testing.assert_allclose(weights[3][name], values, rtol=1e-5, atol=1e-5, err_msg=name)
    for row, other in zip(*histories, strict=True):
        assert row == pytest.approx(other, abs=1e-4)
    files = {path.name for path in (project.folder / RUN).iterdir()}
    assert files == {"models", "history.csv", "provenance.json"}
    for path in (project.folder / "checkpoints").glob("*/after-[23]-*"):
        path.unlink()
    project.run(*launcher(2), *TRAIN, HEATED_TRACKING="off")
    record = json.loads((project.folder / RUN / "provenance.json").read_text(encoding="utf-8"))
    assert record["seeds"]["0"]["epochs_trained"] == 2


@pytest.mark.slow
def test_dvc_uses_the_launcher_of_params_yaml(project):
    launch = "torchrun --nproc-per-node=2 -m"
    project.edit({**SHORT, "run.launcher": launch, "tracking.enabled": False})
    output = project.run("dvc", "repro", "train@digits-hbn")
    assert "> torchrun --nproc-per-node=2 -m stages.train digits hbn" in output
    assert (project.folder / RUN / "models/seed-0.safetensors").exists()
    assert len(read_history(project.folder / RUN / "history.csv")[0]) == 2


@pytest.mark.parametrize(
    ("make_layer", "shape"),
    [
        (partial(nn.BatchNorm2d, 6, momentum=0.1), (8, 6, 3, 3)),
        (partial(nn.BatchNorm1d, 6, momentum=0.05, affine=False), (8, 6)),
    ],
)
def test_batch_norm_for_gloo_equals_pytorchs_layer(make_layer, shape):
    torch.manual_seed(0)
    found = []
    inputs, direction = torch.randn(2, *shape)
    for forward in (nn.Module.__call__, distributed.batch_norm):
        layer, images = make_layer(), inputs.clone().requires_grad_()
        result = forward(layer, images)
        (result * direction).sum().backward()
        gradients = [images.grad, *(each.grad for each in layer.parameters())]
        found.append([result, *gradients, layer.running_mean, layer.running_var])
        assert layer.num_batches_tracked == 1
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_on_a_gpu_pytorchs_layer_takes_over_with_the_same_weights(monkeypatch):
    monkeypatch.setattr(distributed, "is_distributed", lambda: True)
    layers = [nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6, eps=1e-3, momentum=0.05)]
    model, mode = (
        nn.Sequential(nn.Sequential(*layers), nn.BatchNorm1d(6, affine=False)),
        FakeTensorMode(),
    )
    with FakeCopyMode(mode):
        fake = deepcopy(model)
    with mode:
        move_registered(fake, "cuda")
        before, kept = [*fake.parameters()], fake.state_dict(keep_vars=True)
        distributed.sync_batch_norm(fake)
        norms = [each for each in fake.modules() if isinstance(each, nn.SyncBatchNorm)]
        assert len(norms) == 2
        assert (norms[0].eps, norms[0].momentum, norms[1].affine) == (1e-3, 0.05, False)
        assert all(a is b for a, b in zip(before, fake.parameters(), strict=True))
        after = fake.state_dict(keep_vars=True)
        assert [*after] == [*kept]
        assert all(after[name] is kept[name] for name in kept)
    images = torch.randn(4, 1, 5, 5)
    expected = model[0].eval()(images)
    found = nn.SyncBatchNorm.convert_sync_batchnorm(model[0]).eval()(images)
    assert torch.equal(found, expected)
    distributed.sync_batch_norm(model := nn.Sequential(*layers))  # gloo's
    assert type(model[1]) is nn.BatchNorm2d
    assert model[1].forward.func is distributed.batch_norm


def test_without_torchrun_functions_do_nothing_and_shards_and_slices_cover_all(monkeypatch):
    assert not distributed.is_distributed()
    assert distributed.broadcast_int(7, torch.device("cpu")) == 7
    values = torch.arange(3)
    assert distributed.all_reduce_sum(values) is values
    blocks = list(range(7))
    for count in (1, 2, 3):
        shards, slices = [], []
        for rank in range(count):
            place = rank, count
            monkeypatch.setattr(distributed, "rank_and_world_size", lambda place=place: place)
            shards += distributed.local_shard(blocks)
            slices += blocks[distributed.local_slice(len(blocks))]
            assert distributed.is_main_process() == (rank == 0)
        assert sorted(shards) == slices == blocks
