"""The public interface: few names, each imported on first use."""

import subprocess
import sys

import torch
from conftest import ROOT

import heated


def test_public_names_exist_and_the_package_and_the_parameters_load_nothing_heavy():
    assert set(heated.__all__) <= set(dir(heated))
    assert all(getattr(heated, name) for name in heated.__all__)
    assert not hasattr(heated, "HeatedSoftmaxx")
    heavy = "; print({'torch', 'torchvision', 'dvc', 'mlflow', 'sklearn'} & {*sys.modules})"
    load = f"from heated import config; config.load_params(config.Path({str(ROOT)!r}))"
    for code in ("import heated", load):
        command = [sys.executable, "-c", f"import sys; {code}{heavy}"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "set()", code


def test_metrics_take_plain_tensors():
    labels = torch.tensor([0, 0, 1, 1])
    embeddings = torch.eye(2)[labels]
    result = heated.retrieval_metrics(embeddings, labels, recall_at_k=[1])
    assert result.values["recall_at_1"] == 1
    step = {"start": 16, "end": 4, "at": 0.5}
    assert heated.schedule_values("step", step, epochs=4) == [16, 16, 4, 4]
