"""The public interface: few names, all there, none imported before it is used."""

import subprocess
import sys

import torch

import heated


def test_every_public_name_is_listed_and_there():
    assert set(heated.__all__) <= set(dir(heated))
    for name in heated.__all__:
        assert callable(getattr(heated, name)) or getattr(heated, name)


def test_an_unknown_name_is_no_attribute():
    assert not hasattr(heated, "HeatedSoftmaxx")


def test_importing_the_package_imports_nothing_heavy():
    code = "import heated, sys; print({'torch', 'numpy', 'dvc', 'mlflow', 'yaml'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_metrics_take_plain_tensors():
    labels = torch.tensor([0, 0, 1, 1])
    embeddings = torch.eye(2)[labels]
    found = heated.retrieval_metrics(embeddings, labels, recall_at_k=[1])
    assert found.values["recall_at_1"] == 1
    assert heated.schedule_values("step", {"start": 16, "end": 4, "at": 0.5}, epochs=4) == [
        *(16, 16),
        *(4, 4),
    ]
