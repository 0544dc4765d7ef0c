import json
import os
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
    "datasets.digits.training.warm_up": "class_means",
    "datasets.digits.training.batch_size": 97,  # parts of different sizes, also of the last batch
}
RUN = "runs/digits/hbn"
TRAIN = ("-m", "stages.train", "digits", "hbn")


@pytest.mark.slow
def test_several_processes_train_what_one_trains_from_its_start_or_where_it_was(project):
    project.edit(PARAMS)
    for stage in (("resolve",), ("download", "digits"), ("split", "digits")):
        project.stage(*stage)
    trained, histories = [], []
    for processes, lost in ((1, "*"), (2, "after-[23]-*"), (3, "*")):
        for path in (project.folder / "checkpoints").glob(f"*/{lost}"):
            path.unlink()
        start = ("-m", "torch.distributed.run", f"--nproc-per-node={processes}")
        torchrun = start if processes > 1 else ()
        project.run(sys.executable, *torchrun, *TRAIN, HEATED_TRACKING="off")
        trained.append(load_file(project.folder / RUN / "models" / "seed-0.safetensors"))
        histories.append(read_history(project.folder / RUN / "history.csv")[0])
        record = json.loads((project.folder / RUN / "provenance.json").read_text(encoding="utf-8"))
        assert record["seeds"]["0"]["epochs_trained"] == (2 if processes == 2 else 3)
        written = sorted(path.name for path in (project.folder / RUN).iterdir())
        assert written == ["history.csv", "models", "provenance.json"]
    for many, history in zip(trained[1:], histories[1:], strict=True):
        for name, values in trained[0].items():
            np.testing.assert_allclose(many[name], values, rtol=1e-5, atol=1e-5, err_msg=name)
        for row, other in zip(histories[0], history, strict=True):
            assert row == pytest.approx(other, abs=1e-4)


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
