import json
import os
import platform
import subprocess
from importlib.metadata import version

import pytest
import torch

from heated.runtime.environment import environment, git, main, processor, source_commit


def test_the_environment_names_hardware_and_versions_as_json():
    found = environment(torch.device("cpu"))
    assert json.loads(json.dumps(found)) == found
    assert found["device_type"] == "cpu"
    assert found["device"] == processor() != ""
    assert found["cores"] == os.cpu_count()
    assert found["python"] == platform.python_version()
    assert platform.system() in found["system"]
    for package in ("torch", "torchvision", "numpy", "scikit-learn"):
        assert found[package] == version(package)


def test_a_bug_report_has_hardware_versions_and_commit_in_one_paste(capsys):
    main()
    printed = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    expected = {"device", "python", "torch", "dvc", "mlflow", "commit", "modified"}
    assert expected <= set(printed)
    assert printed["heated"] == version("heated")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_on_a_gpu_the_device_is_the_cards_name():
    found = environment(torch.device("cuda", 0))
    assert found["device_type"] == "cuda"
    assert found["device"] == torch.cuda.get_device_name(0)


@pytest.fixture(autouse=True)
def plain_git(monkeypatch):
    """Neither git nor DVC has settings of the user's or of what started the tests."""
    for name in [name for name in os.environ if name.startswith(("GIT_", "DVC_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A git repository with one commit of one file, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tracked").write_text("one")
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], ["add", "tracked"], [*identity, "commit", "-q", "-m", "one"]):
        subprocess.run(["git", *command], check=True)
    return tmp_path


def test_the_commit_is_the_heads_with_dvcs_names_of_stage_and_experiment(repository, monkeypatch):
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    expected = {"commit": head.stdout.strip(), "modified": False}
    assert len(expected["commit"]) == 40
    assert source_commit() == {**expected, "stage": None, "experiment": None}
    monkeypatch.setenv("DVC_STAGE", "train@digits-bn")
    monkeypatch.setenv("DVC_EXP_NAME", "warm-ibis")
    names = {"stage": "train@digits-bn", "experiment": "warm-ibis"}
    assert source_commit() == {**expected, **names}


def test_a_changed_file_is_told_and_an_untracked_one_or_a_result_is_not(repository):
    (repository / "untracked").write_text("two")
    (repository / "dvc.lock").write_text("one")  # a build writes it
    subprocess.run(["git", "add", "dvc.lock"], check=True)
    assert source_commit()["modified"] is False
    (repository / "tracked").write_text("two")
    assert source_commit()["modified"] is True


def test_outside_a_repository_and_without_git_there_is_no_commit(repository, monkeypatch):
    with monkeypatch.context() as without_git:
        without_git.setenv("PATH", str(repository))
        assert git("rev-parse", "HEAD") is None
    (repository / "outside").mkdir()
    monkeypatch.chdir(repository / "outside")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(repository))
    found = source_commit()
    assert (found["commit"], found["modified"]) == (None, False)
