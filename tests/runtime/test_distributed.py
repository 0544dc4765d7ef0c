import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SHORT
from safetensors.numpy import load_file

from heated import config
from heated.common.history import read_history
from heated.common.io import write_arrays, write_json
from heated.config.resolved import resolved_files
from heated.runtime import distributed

ROOT = Path(__file__).parents[2]


def launched(processes, *command, folder=ROOT):
    """What a program printed that `torchrun` started so many times, or python once."""
    torchrun = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
    start = [sys.executable, *(torchrun if processes > 1 else [])]
    done = subprocess.run(
        [*start, *map(str, command)],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


WARM_UP = """
import sys
from pathlib import Path
import torch
from heated.models import embedding_model as models
from heated.runtime.device import prepared
from heated.runtime.distributed import first, share_batch_norm
from heated.data.batches import Held
from heated.training.init_stages import INITIALIZERS

device = prepared(1)
torch.manual_seed(0)
architecture = models.Architecture(
    image_shape=(8, 8, 1),
    num_classes=4,
    embedding_dim=6,
    backbone={"name": "conv4", "width": 4},
    normalise={"name": "batch", "momentum": 0.05, "eps": 1e-3},
    bias="outside",
    label_smoothing=0.0,
    augment=[],
    pixel_mean=0.5,
    pixel_std=0.5,
)
model = models.Model(architecture)
share_batch_norm(model)
images = torch.randint(256, (101, 8, 8, 1), dtype=torch.uint8)  # parts of different sizes
options = {"batch_size": 9, "precision": "float32"}
INITIALIZERS["class_means"](model, Held(images), torch.arange(101) % 4, **options)
if first():
    models.save(Path(sys.argv[1]), model)
"""


@pytest.mark.slow
def test_several_processes_warm_up_as_one_does(tmp_path):
    script, warmed = tmp_path / "script.py", {}
    script.write_text(WARM_UP, encoding="utf-8")
    for processes in (1, 3):
        launched(processes, script, tmp_path / f"{processes}.safetensors")
        warmed[processes] = load_file(tmp_path / f"{processes}.safetensors")
    for name, values in warmed[1].items():
        np.testing.assert_allclose(warmed[3][name], values, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_the_stage_writes_the_very_same_metrics_from_two_processes(tmp_path, monkeypatch):
    run, labels = tmp_path / "runs/digits/hbn", np.arange(3000) % 400
    for seed in (0, 1):
        random = np.random.default_rng(seed)
        noise, centres = random.normal(size=(3000, 24)), random.normal(size=(400, 24))
        arrays = {"embeddings": (centres[labels] + 1.5 * noise).astype(np.float32)}
        masks = dict.fromkeys(("query", "gallery"), np.ones(3000, dtype=bool))
        write_arrays(run / "embeddings" / f"seed-{seed}.npz", **arrays, labels=labels, **masks)
    given = resolved_files(config.load(ROOT))["evaluation/digits.json"]
    lloyd = {"name": "lloyd", "restarts": 2, "iterations": 5}
    given["evaluation"] |= {"kmeans": lloyd, "recall_at": [1, 10, 100], "memory": 1}
    write_json(tmp_path / "data/resolved/evaluation/digits.json", given)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "src")]))
    written = []
    for processes in (1, 2):
        launched(processes, "-m", "stages.evaluate", "digits", "hbn", folder=tmp_path)
        written.append((run / "metrics.json").read_text(encoding="utf-8"))
    assert written[0] == written[1]
    assert json.loads(written[0])["recall_at_1"]["n"] == 2


PARAMS = {
    **SHORT,
    "datasets.digits.training.epochs": 3,
    "datasets.digits.training.batch_size": 97,  # parts of different sizes, also of the last batch
}
RUN = "runs/digits/hbn"
TORCHRUN = (sys.executable, "-m", "torch.distributed.run")
TRAIN = ("-m", "stages.train", "digits", "hbn")


def split_project(project):
    """A project with packed digits and resolved settings."""
    project.edit(PARAMS)
    for stage in (("resolve",), ("download", "digits"), ("split", "digits")):
        project.stage(*stage)


@pytest.mark.slow
def test_several_processes_train_what_one_trains(project):
    split_project(project)
    trained, histories = {}, []
    for count in (1, 3):  # two: the next test
        for left in ("checkpoints", RUN):
            shutil.rmtree(project.folder / left, ignore_errors=True)
        start = (*TORCHRUN, f"--nproc-per-node={count}") if count > 1 else (sys.executable,)
        project.run(*start, *TRAIN, HEATED_TRACKING="off")
        trained[count] = load_file(project.folder / RUN / "models" / "seed-0.safetensors")
        histories.append(read_history(project.folder / RUN / "history.csv")[0])
    one, many = trained.values()
    for name, values in one.items():
        np.testing.assert_allclose(many[name], values, rtol=1e-5, atol=1e-5, err_msg=name)
    for row, other in zip(*histories, strict=True):
        assert row == pytest.approx(other, abs=1e-4)
    assert sorted(path.name for path in (project.folder / RUN).iterdir()) == sorted(
        ["models", "history.csv", "provenance.json"]
    )


@pytest.mark.slow
def test_a_training_goes_on_with_another_number_of_processes(project):
    split_project(project)
    project.stage("train", "digits", "hbn", HEATED_TRACKING="off")
    for path in (project.folder / "checkpoints").glob("*/after-[23]-*"):
        path.unlink()
    project.run(*TORCHRUN, "--nproc-per-node=2", *TRAIN, HEATED_TRACKING="off")
    record = json.loads((project.folder / RUN / "provenance.json").read_text(encoding="utf-8"))
    assert record["seeds"]["0"]["epochs_trained"] == 2


@pytest.mark.slow
def test_dvc_shares_a_training_that_params_yaml_says_to_share(project):
    launch = "torchrun --nproc-per-node=2 -m"
    project.edit({**SHORT, "run.launch": launch, "tracking.enabled": False})
    told = project.run("dvc", "repro", "train@digits-hbn")
    assert "> torchrun --nproc-per-node=2 -m stages.train digits hbn" in told
    assert (project.folder / "runs/digits/hbn/models/seed-0.safetensors").exists()
    assert len(read_history(project.folder / "runs/digits/hbn/history.csv")[0]) == 2


def test_alone_everything_is_ones_own():
    assert not distributed.joined()
    assert distributed.first()
    assert distributed.mine([1, 2, 3]) == [1, 2, 3]
    assert distributed.agreed(7, torch.device("cpu")) == 7
    values = torch.arange(3)
    assert distributed.summed(values) is values


@pytest.mark.parametrize("count", [1, 2, 3])
def test_shares_are_every_piece_once(monkeypatch, count):
    pieces, shares = list(range(7)), []
    parts = []
    for rank in range(count):
        monkeypatch.setattr(distributed, "place", lambda rank=rank: (rank, count))
        shares += distributed.mine(pieces)
        parts += pieces[distributed.part(len(pieces))]
        assert distributed.first() == (rank == 0)
    assert sorted(shares) == parts == pieces
