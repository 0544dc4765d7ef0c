"""Whose runs are whose: DVC experiments, workspaces, users, and processes that were killed."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys

import pytest
import tracked
from tracked import HISTORIES, METRICS, make_record, method_run, seed_run

from heated.common.errors import InputError
from heated.common.io import RESOLVED, write_json
from heated.evaluation.metrics import summarize_seeds
from heated.tracking.__main__ import runs_pages
from heated.tracking.client import NOTE_TAG, PARENT_TAG
from heated.tracking.live_runs import close_dead_runs
from heated.tracking.publish import publish_report, publish_run
from heated.tracking.saved_view import VIEW_TAG
from heated.tracking.store import open_store

pytestmark = [
    pytest.mark.xdist_group("mlflow-tracking"),
    pytest.mark.mlflow,
    pytest.mark.filterwarnings(tracked.MLFLOW_WARNING),
]
ONE = summarize_seeds({0: {name: value["seeds"]["0"] for name, value in METRICS.items()}})


@pytest.fixture
def client(mlflow_template, tmp_path, monkeypatch):
    """MLflow's client of an empty store, which this process uses."""
    shutil.copy(mlflow_template, tmp_path / "mlflow.db")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    for name in ("MLFLOW_TRACKING_URI", "HEATED_TRACKING", "DVC_EXP_NAME"):
        monkeypatch.delenv(name, raising=False)
    return open_store()


def all_runs(client):
    """Return all fields of the experiment's runs by id."""
    experiment = client.get_experiment_by_name("digits").experiment_id
    runs = client.search_runs([experiment])
    return {run.info.run_id: run.to_dictionary() for run in runs}


def publish_both(key, histories, metrics, text):
    publish_run(make_record(key), histories, metrics)
    publish_report(make_record(key), {"index.html": text}, note=text)


@pytest.mark.parametrize("other", ["experiment", "workspace"])
def test_runs_of_another_experiment_or_workspace_are_never_changed(
    client, other, monkeypatch, tmp_path
):
    publish_both("run", HISTORIES, METRICS, "ours")
    before = all_runs(client)
    with monkeypatch.context() as patch:
        if other == "experiment":
            patch.setenv("DVC_EXP_NAME", "warmer")
        else:
            patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
            patch.setenv("DVC_ROOT", str(tmp_path / "other"))
            (tmp_path / "other").mkdir()
        publish_both("run", HISTORIES, METRICS, "ours")  # equal: nothing to add
        assert all_runs(client) == before
        for _ in range(2):
            publish_both("run", {0: HISTORIES[0]}, ONE, "theirs")  # with one seed fewer
            added = {k: v for k, v in all_runs(client).items() if k not in before}
            assert all_runs(client) == before | added
            assert len(added) == 3  # a method, a seed, a report
    publish_both("run", HISTORIES, METRICS, "ours")
    assert all_runs(client) == before | added
    names = {run["info"]["run_name"] for run in added.values()}
    suffix = " · warmer" if other == "experiment" else ""
    titles = ["hbn · digits", "report · digits"]
    assert names == {f"hbn · digits{suffix} · seed 0", *(title + suffix for title in titles)}
    assert client.get_experiment_by_name("digits").tags[NOTE_TAG].endswith("). ours")
    for run_id, run in all_runs(client).items():
        if parent := run["data"]["tags"].get(PARENT_TAG):
            assert (run_id in added) == (parent in added)


def test_a_users_description_of_the_experiment_is_kept(client):
    for text in ("one", "two"):
        publish_report(make_record("run"), {}, note=text)
        assert client.get_experiment_by_name("digits").tags[NOTE_TAG].endswith(f"). {text}")
    experiment = client.get_experiment_by_name("digits").experiment_id
    for text in ("mine", ""):
        client.set_experiment_tag(experiment, NOTE_TAG, text)
        publish_report(make_record("run"), {}, note="three")
        assert client.get_experiment(experiment).tags.get(NOTE_TAG, "") == text


def test_a_deleted_experiment_is_one_message_with_both_ways_out(client):
    publish_run(make_record("run"), HISTORIES, METRICS)
    experiment = client.get_experiment_by_name("digits").experiment_id
    client.delete_experiment(experiment)
    with pytest.raises(InputError, match=r"experiments restore .* mlflow gc .*`make track`"):
        publish_run(make_record("run"), HISTORIES, METRICS)
    client.restore_experiment(experiment)
    publish_run(make_record("run"), HISTORIES, METRICS)
    assert len(all_runs(client)) == 3


FOLLOW = """
import json, os, sys, time
from heated.tracking.live_logger import LiveLogger
record, rows = json.loads(sys.argv[1])
logger = LiveLogger(record, True, 0)
for row in rows:
    logger.log(0, row)
logger.executor.shutdown()
print("followed", flush=True)
time.sleep(600)
"""


def test_runs_of_a_process_that_was_killed_are_closed_and_those_of_a_live_one_are_not(client):
    arguments = json.dumps([make_record("killed"), HISTORIES[0][:2]])
    command = [sys.executable, "-W", "ignore", "-c", FOLLOW, arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "followed\n"
            close_dead_runs()
            assert tracked.statuses(client, "killed") == (["RUNNING"], ["RUNNING"])
        finally:
            process.send_signal(signal.SIGKILL)
    close_dead_runs()
    assert tracked.statuses(client, "killed") == (["KILLED"], ["KILLED"])
    publish_run(make_record("killed"), HISTORIES, METRICS)
    close_dead_runs()
    assert method_run(client, "killed").info.status == "FINISHED"
    assert seed_run(client, "killed", 0).info.status == "FINISHED"


def test_data_sets_of_the_last_build_are_listed_first_and_one_without_a_view_plainly(
    client, tmp_path
):
    assert runs_pages(client) == {}
    for name in ("digits", "mnist", "sop"):
        publish_report(make_record("run") | {"dataset": name}, {}, note="")
    write_json(tmp_path / RESOLVED / "tracking.json", {"datasets": {"sop": {}, "mnist": {}}})
    ids = {name: client.get_experiment_by_name(name).experiment_id for name in ("mnist", "sop")}
    client.rename_experiment(ids["sop"], "products")
    client.delete_experiment_tag(ids["mnist"], VIEW_TAG)
    pages = runs_pages(client)
    assert [*pages] == ["products", "mnist", "digits"]
    start = f"/#/experiments/{ids['mnist']}/runs?workflowType=machine_learning"
    assert pages["mnist"] == start
    assert pages["digits"].endswith("&viewStateShareKey=heated")


def test_a_port_in_use_is_told_before_anything_starts(client):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        command = [sys.executable, "-W", "ignore", "-m", "heated.tracking", "--port", str(port)]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"port {port} of 127.0.0.1: ")
    assert "already in use" in done.stderr
