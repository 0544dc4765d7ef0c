import json
import os
import platform
import resource
import subprocess
import sys
import time
from functools import partial
from importlib.metadata import version

import pytest
import torch

from heated.runtime import environment
from heated.runtime.device import keep_freed_memory
from heated.runtime.environment import (
    MIN_INTERVAL_S,
    SystemMetricsLogger,
    collect_environment,
    cpu_name,
    git,
    main,
    source_commit,
)
from heated.training.provenance import with_results

CPU = {
    "system/cpu_utilization_percentage",
    "system/process_cpu_percentage",
    "system/process_memory_megabytes",
}
BLOCK = 64 * 2**20  # bytes


@pytest.mark.skipif(sys.platform != "linux", reason="sets options of Linux's C library")
def test_kept_memory_is_not_requested_again(monkeypatch):
    def faults(keep):
        """Pages that the system provides for a block that was freed a moment ago."""
        keep_freed_memory(keep)
        fill = partial(torch.zeros, BLOCK, dtype=torch.uint8)
        for _ in range(8):  # make room in the heap
            fill()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        fill()
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    pages, requested = BLOCK // resource.getpagesize(), faults(False)
    if requested < pages // 600:  # huge pages count once
        pytest.skip("this C library keeps memory by default")
    assert faults(True) < requested / 10
    keep_freed_memory(False)
    monkeypatch.setattr(sys, "platform", "darwin")
    keep_freed_memory(True)  # does nothing on another system


def test_the_environment_has_hardware_and_versions_as_json():
    environment = collect_environment(torch.device("cpu"))
    assert json.loads(json.dumps(environment)) == environment
    assert platform.system() in environment.pop("system")
    assert environment == {
        "device": cpu_name(),
        "device_type": "cpu",
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "torchvision", "numpy", "scikit-learn")},
    }
    assert environment["device"]


def test_a_bug_report_has_hardware_versions_and_commit_in_one_paste(capsys):
    main()
    printed = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    expected = {"device", "python", "torch", "dvc", "mlflow", "commit", "modified"}
    assert expected <= set(printed)
    assert printed["heated"] == version("heated")


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository with one commit of one file, as working directory, and git's own defaults."""
    for name in [name for name in os.environ if name.startswith(("GIT_", "DVC_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tracked").write_text("one")
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], ["add", "tracked"], [*identity, "commit", "-q", "-m", "one"]):
        subprocess.run(["git", *command], check=True)
    return tmp_path


def test_the_commit_is_heads_with_dvcs_stage_and_experiment(repository, monkeypatch):
    expected = {"commit": git("rev-parse", "HEAD"), "modified": False}
    assert len(expected["commit"]) == 40
    assert source_commit() == {**expected, "stage": None, "experiment": None}
    monkeypatch.setenv("DVC_STAGE", "train@digits-bn")
    monkeypatch.setenv("DVC_EXP_NAME", "warm-ibis")
    names = {"stage": "train@digits-bn", "experiment": "warm-ibis"}
    assert source_commit() == {**expected, **names}


def test_tracked_sources_count_as_modified_but_no_untracked_file_or_result(repository):
    (repository / "untracked").write_text("two")
    (repository / "dvc.lock").write_text("one")  # a build writes it
    subprocess.run(["git", "add", "dvc.lock"], check=True)
    assert source_commit()["modified"] is False
    (repository / "tracked").write_text("two")
    assert source_commit()["modified"] is True


UNKNOWN = {  # by the environment or the folder, what is printed
    "PATH=/nowhere": "git: No such file",  # git is not installed
    "GIT_TEST_ASSUME_DIFFERENT_OWNER=1": "detected dubious ownership",
    "GIT_CEILING_DIRECTORIES=.": "",  # outside a repository
    "": "",  # in a folder that the repository does not track
}


@pytest.mark.parametrize("setting", UNKNOWN)
def test_an_unknown_commit_is_neither_modified_nor_unmodified(
    repository, monkeypatch, setting, capfd
):
    (repository / "tracked").write_text("two")
    folder = repository / "folder"
    folder.mkdir()
    name, _, value = setting.partition("=")
    if name:
        monkeypatch.setenv(name, str(repository) if value == "." else value)
    if value in ("", "."):
        monkeypatch.chdir(folder)
    found = source_commit()
    assert (found["commit"], found["modified"]) == (None, None)
    printed = capfd.readouterr().err
    assert UNKNOWN[setting] in printed
    assert printed.count("The commit is not recorded") == bool(UNKNOWN[setting])


def test_another_folder_of_the_repository_does_not_count(repository, monkeypatch):
    project = repository / "project"
    project.mkdir()
    (project / "source").write_text("one")
    subprocess.run(["git", "add", "project"], check=True)
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", *identity, "commit", "-q", "-m", "two"], check=True)
    (repository / "tracked").write_text("two")
    monkeypatch.chdir(project)
    found = source_commit()
    assert (found["commit"], found["modified"]) == (git("rev-parse", "HEAD"), False)


class Rows(dict):
    """A logger that keeps the rows of each seed."""

    def log(self, seed, row):
        self.setdefault(seed, []).append(row)


def work():
    """Keep a processor busy for longer than the shortest interval, in time of this process."""
    end = time.process_time() + 2 * MIN_INTERVAL_S
    while time.process_time() < end:
        pass


def test_each_row_has_the_system_metrics_since_the_row_before_unless_training_resumes(monkeypatch):
    logged = Rows()
    logger = SystemMetricsLogger(torch.device("cpu"), logged)
    for epoch in range(2):
        work()
        logger.log(7, {"epoch": epoch, "loss": 1.0})
    assert [row.keys() for row in logged[7]] == [{"epoch", "loss"} | CPU] * 2
    assert all(row["system/process_cpu_percentage"] > 0 for row in logged[7])
    assert all(row["system/process_memory_megabytes"] > 50 for row in logged[7])
    assert logger.rows == {7: [{k: v for k, v in row.items() if k != "loss"} for row in logged[7]]}
    # rows of a resumed training's earlier epochs follow at once
    monkeypatch.setattr(environment, "MIN_INTERVAL_S", float("inf"))
    for epoch in range(3):
        logger.log(0, {"epoch": epoch, "loss": 1.0})
    assert (logged[0], logger.rows[0]) == ([{"epoch": e, "loss": 1.0} for e in range(3)], [])


ERROR = RuntimeError("not supported on this part of a GPU")


def fail(*_):
    raise ERROR


@pytest.mark.parametrize("source", ["utilization", "memory_reserved", "cpu_percent"])
def test_a_metric_that_fails_is_left_out_and_ends_nothing(source, monkeypatch, capsys):
    monkeypatch.setattr(environment, "find_spec", lambda _: True)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 5e6)
    monkeypatch.setattr(torch.cuda, "utilization", lambda _: 40)
    module = environment.psutil if source == "cpu_percent" else torch.cuda
    monkeypatch.setattr(module, source, fail)
    failing = {
        "utilization": "system/gpu_utilization_percentage",
        "memory_reserved": "system/gpu_memory_megabytes",
        "cpu_percent": "system/cpu_utilization_percentage",
    }
    logged = Rows()
    logger = SystemMetricsLogger(torch.device("cuda"), logged)
    for epoch in range(2):
        logger.since -= 1
        logger.log(0, {"epoch": epoch})
    expected = (CPU | {*failing.values()}) - {failing[source]}
    assert [row.keys() - {"epoch"} for row in logged[0]] == [expected] * 2
    printed = capsys.readouterr().err.splitlines()  # once
    assert printed == [f"{failing[source]}: not measured ({ERROR!r})"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_device_is_the_cards_name_and_its_memory_is_measured():
    environment = collect_environment(torch.device("cuda", 0))
    assert environment["device_type"] == "cuda"
    assert environment["device"] == torch.cuda.get_device_name(0)
    logged = Rows()
    logger = SystemMetricsLogger(torch.device("cuda"), logged)
    held = torch.zeros(10**7, device="cuda")
    work()
    logger.log(0, {"epoch": 0})
    assert logged[0][0]["system/gpu_memory_megabytes"] >= held.nbytes / 1e6


def test_a_record_keeps_the_system_metrics_of_epochs_that_were_trained_now():
    rows = [{"epoch": epoch, "system/cpu_utilization_percentage": 50.0} for epoch in range(3)]
    history = [{"epoch": epoch} for epoch in range(3)]
    done = {s: {"history": history, "epochs_trained": n} for s, n in ((0, 1), (7, 0))}
    record = with_results({}, done, {0: rows, 7: rows[:1]})
    assert record["usage"] == {"0": rows[2:]}
    assert record["seeds"] == {"0": {"epochs_trained": 1}, "7": {"epochs_trained": 0}}
