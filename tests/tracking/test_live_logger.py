import json
import os
import subprocess
import sys

import pytest
from tracked import (
    ALPHAS,
    HISTORIES,
    METRICS,
    MLFLOW_WARNING,
    history,
    make_record,
    metric_points,
    record_points,
    record_runs,
    seed_run,
    statuses,
)

from heated.tracking.client import open_store
from heated.tracking.live_logger import LiveLogger
from heated.tracking.publish import publish_run

pytestmark = [
    pytest.mark.xdist_group("mlflow-tracking"),
    pytest.mark.mlflow,
    pytest.mark.filterwarnings(MLFLOW_WARNING),
]


@pytest.fixture(scope="module")
def client(mlflow_folder):
    publish_run(make_record("whole"), HISTORIES, METRICS)
    return open_store()


def alphas(client, key):
    children = record_runs(client, key, "seed")
    return metric_points(client, children[0], "schedule/alpha") if children else []


def train(key, histories, interval_s, error=None):
    with LiveLogger(make_record(key), enabled=True, interval_s=interval_s) as logger:
        for seed, rows in histories.items():
            for row in rows:
                logger.log(seed, row)
        if error:
            raise error


def test_a_run_is_followed_while_it_is_trained(client):
    logger = LiveLogger(make_record("live"), enabled=True, interval_s=0)
    for row in history(0):
        logger.log(0, row)
        assert logger.upload is not None
        logger.upload.result()
        assert alphas(client, "live") == list(enumerate(ALPHAS[: row["epoch"] + 1]))
        assert statuses(client, "live")[0] == ["RUNNING"]
    logger.close("FINISHED")
    assert statuses(client, "live")[0] == ["FINISHED"]


def test_a_training_that_raises_is_failed_except_for_its_complete_seeds(client):
    cases = {
        "failed": ({0: history(0, 1)}, ["FAILED"]),
        "partly": ({0: HISTORIES[0], 7: HISTORIES[7][:2]}, ["FAILED", "FINISHED"]),
    }
    for key, (histories, expected) in cases.items():
        with pytest.raises(FloatingPointError, match="loss"):
            train(key, histories, 3600, FloatingPointError("loss"))
        assert statuses(client, key)[0] == ["FAILED"]
        assert sorted(statuses(client, key)[1]) == expected
    assert alphas(client, "failed") == [(0, 16)]
    assert seed_run(client, "partly", 7).info.status == "FAILED"


def test_an_interrupted_training_is_followed_by_one_run_and_published_as_one(client):
    first = LiveLogger(make_record("again"), enabled=True, interval_s=0)
    for row in history(0, 2):
        first.log(0, row)
    first.executor.shutdown()  # as if it was killed now
    assert statuses(client, "again") == (["RUNNING"], ["RUNNING"])
    train("again", HISTORIES, 0)  # some rows are logged during an upload
    finished = (["FINISHED"], ["FINISHED", "FINISHED"])
    assert statuses(client, "again") == finished
    points = metric_points(client, seed_run(client, "again", 0), "schedule/alpha")
    assert points == list(enumerate(ALPHAS))
    publish_run(make_record("again"), HISTORIES, METRICS)
    assert record_points(client, "again") == record_points(client, "whole")
    assert statuses(client, "again") == finished


def test_two_equal_trainings_at_once_are_one_run_without_an_error(client, capsys):
    record = make_record("twice")
    loggers = [LiveLogger(record, enabled=True, interval_s=0) for _ in range(2)]
    for row in history(0):
        for logger in loggers:
            logger.log(0, row)
            logger.upload.result()
    (parent,) = record_runs(client, "twice", "run")
    for logger in loggers:
        logger.close("FINISHED")
    assert statuses(client, "twice") == (["FINISHED"], ["FINISHED"])
    assert record_runs(client, "twice", "run")[0].info.run_id == parent.info.run_id
    assert alphas(client, "twice") == list(enumerate(ALPHAS))
    assert capsys.readouterr().err == ""


def test_training_continues_when_tracking_fails(mlflow_folder, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://nowhere")
    train("lost", {0: history(0)[:1]}, 1e-9)
    assert "Tracking failed: " in capsys.readouterr().err


UNTRACKED = """
import json, os, sys
from heated.tracking.live_logger import LiveLogger
record, cases = json.loads(sys.argv[1])
for name, (enabled, interval_s, fails, variable) in cases.items():
    os.environ["HEATED_TRACKING"] = variable
    try:
        with LiveLogger(record, enabled, interval_s) as logger:
            logger.log(0, {"epoch": 0, "alpha": 16.0})
            if fails:
                raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    assert "mlflow" not in sys.modules, name
    assert os.listdir(os.environ["DVC_ROOT"]) == [], name
print("done")
"""


def test_mlflow_is_not_imported_where_nothing_is_tracked(tmp_path):
    cases = {
        "switched off in params.yaml": (False, 1e-9, True, "on"),
        "switched off in the environment": (True, 1e-9, True, "off"),
        "a short training": (True, 3600, False, "on"),
    }
    done = subprocess.run(
        [sys.executable, "-c", UNTRACKED, json.dumps([make_record("never"), cases])],
        env={**os.environ, "DVC_ROOT": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
