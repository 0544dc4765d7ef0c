"""The public interface: few names, each imported on first use."""

import subprocess
import sys

import torch

import heated


def test_public_names_exist_and_importing_the_package_imports_nothing_heavy():
    assert set(heated.__all__) <= set(dir(heated))
    assert all(getattr(heated, name) for name in heated.__all__)
    assert not hasattr(heated, "HeatedSoftmaxx")
    code = "import heated, sys; print({'torch', 'numpy', 'dvc', 'mlflow', 'yaml'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_metrics_take_plain_tensors():
    labels = torch.tensor([0, 0, 1, 1])
    embeddings = torch.eye(2)[labels]
    found = heated.retrieval_metrics(embeddings, labels, recall_at_k=[1])
    assert found.values["recall_at_1"] == 1
    step = {"start": 16, "end": 4, "at": 0.5}
    assert heated.schedule_values("step", step, epochs=4) == [16, 16, 4, 4]
