import os
import subprocess
import sys

import pytest

from heated.history import read_history, write_history
from heated.statistics import summaries
from heated.tracking import address, flat, live, publish, wanted

# MLflow's own, when it sets up its tables with SQLAlchemy.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"
)

UNSEEN = {"recall_at_1": "unseen/recall_at_1", "spread": "unseen/spread"}
ALPHAS = [16.0, 16.0, 4.0, 4.0]


def history(seed, epochs=4):
    return [
        {
            "epoch": epoch,
            "alpha": alpha,
            "temperature": 1 / alpha,
            "lr": 0.05,
            "loss": 1 / (1 + epoch + seed),
            "accuracy": 0.5 + epoch / 10,
            **({"recall_at_1": 0.4 + epoch / 7 + seed / 100, "spread": 0.3} if epoch % 2 else {}),
        }
        for epoch, alpha in enumerate(ALPHAS[:epochs])
    ]


HISTORIES = {0: history(0), 7: history(7)}
METRICS = summaries(
    {0: {"recall_at_1": 0.71, "map_at_r": 0.2}, 7: {"recall_at_1": 0.74, "map_at_r": 0.23}}
)


def record(key, method="hbn"):
    return {
        "dataset": "digits",
        "method": method,
        "key": key,
        "params": {
            "lr": 0.05,
            "epochs": len(ALPHAS),
            "alpha": {"name": "step", "start": 16.0, "end": 4.0, "at": 0.7},
        },
        "data_sha256": "ab" * 32,
        "source": {"commit": "c0ffee", "modified": True, "stage": "train@digits-hbn", "none": None},
        "environment": {"device": "made up", "cores": 2},
        "seeds": {},
    }


@pytest.fixture(scope="module", autouse=True)
def root(tmp_path_factory):
    """A project's folder with a MLflow database, which takes seconds to create."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_ROOT", str(folder))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.delenv("HEATED_TRACKING", raising=False)
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        yield folder


@pytest.fixture(scope="module")
def client(root):
    from mlflow.tracking import MlflowClient

    publish(record("whole"), HISTORIES, METRICS)
    return MlflowClient(f"sqlite:///{root}/mlflow.db")


def runs(client, key, kind):
    """The runs of a record, found as a user finds them."""
    experiment = client.get_experiment_by_name("digits").experiment_id
    found = client.search_runs([experiment], f"tags.`heated.kind` = '{kind}'")
    return [r for r in found if r.data.tags["heated.key"].split("-")[0] == key]


def child(client, key, seed):
    (found,) = [r for r in runs(client, key, "seed") if r.data.params["seed"] == str(seed)]
    return found


def points(client, run, name):
    return sorted((p.step, p.value) for p in client.get_metric_history(run.info.run_id, name))


def every_point(client, key):
    every = runs(client, key, "run") + runs(client, key, "seed")
    return {
        (r.info.run_id, name): points(client, r, name) for r in every for name in r.data.metrics
    }


def test_a_method_is_a_parent_run_and_each_seed_a_child(client):
    (parent,) = runs(client, "whole", "run")
    children = runs(client, "whole", "seed")
    assert parent.info.run_name == "hbn · digits"
    assert {c.info.run_name for c in children} == {
        "hbn · digits · seed 0",
        "hbn · digits · seed 7",
    }
    assert {c.data.tags["mlflow.parentRunId"] for c in children} == {parent.info.run_id}
    assert "mlflow.parentRunId" not in parent.data.tags
    assert {r.info.status for r in [parent, *children]} == {"FINISHED"}


def test_a_data_set_is_an_experiment_in_the_projects_folder(client, root):
    experiment = client.get_experiment_by_name("digits")
    assert experiment.artifact_location == (root / "mlartifacts" / "digits").as_uri()
    assert (root / "mlflow.db").exists()


@pytest.mark.parametrize("seed", HISTORIES)
def test_every_epochs_row_is_there_under_its_step(client, seed):
    run = child(client, "whole", seed)
    for name in {key for row in HISTORIES[seed] for key in row} - {"epoch"}:
        expected = [(row["epoch"], row[name]) for row in HISTORIES[seed] if name in row]
        assert points(client, run, UNSEEN.get(name, name)) == expected
    assert "epoch" not in run.data.metrics


@pytest.mark.parametrize("seed", HISTORIES)
def test_a_seeds_final_metrics_stand_at_its_last_epoch(client, seed):
    run = child(client, "whole", seed)
    for name, summary in METRICS.items():
        assert points(client, run, name) == [(3, summary["seeds"][str(seed)])]


def test_the_parent_has_the_mean_its_interval_and_n(client):
    (parent,) = runs(client, "whole", "run")
    expected = {"n": 2}
    for name, summary in METRICS.items():
        low, high = summary["interval"]
        expected |= {name: summary["mean"], f"{name}_low": low, f"{name}_high": high}
    assert parent.data.metrics == expected


def test_parameters_source_environment_and_data_are_told(client):
    run = child(client, "whole", 7)
    assert run.data.params == {
        "lr": "0.05",
        "epochs": str(len(ALPHAS)),
        "alpha.name": "step",
        "alpha.start": "16.0",
        "alpha.end": "4.0",
        "alpha.at": "0.7",
        "seed": "7",
    }
    assert run.data.tags["source.commit"] == "c0ffee"
    assert run.data.tags["source.stage"] == "train@digits-hbn"
    assert "source.none" not in run.data.tags
    assert run.data.tags["environment.device"] == "made up"
    (data,) = run.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("digits", ("ab" * 32)[:36])


def test_publishing_twice_adds_no_run_and_no_point(client):
    before = every_point(client, "whole")
    publish(record("whole"), HISTORIES, METRICS)
    assert every_point(client, "whole") == before


def test_what_is_read_back_from_files_adds_no_point(client, tmp_path):
    before = every_point(client, "whole")
    write_history(tmp_path / "history.csv", HISTORIES)
    publish(record("whole"), read_history(tmp_path / "history.csv"), METRICS)
    assert every_point(client, "whole") == before


def test_a_run_published_in_parts_ends_like_one_published_whole(client):
    publish(record("parts"), {0: history(0, 2)}, {}, status="RUNNING")
    assert {r.info.status for r in runs(client, "parts", "seed")} == {"RUNNING"}
    assert points(client, child(client, "parts", 0), "alpha") == [(0, 16), (1, 16)]
    publish(record("parts"), HISTORIES, METRICS)
    assert {r.info.status for r in runs(client, "parts", "seed")} == {"FINISHED"}
    parts, whole = every_point(client, "parts"), every_point(client, "whole")
    assert sorted(parts.values()) == sorted(whole.values())
    assert len(runs(client, "parts", "run")) == 1


def test_a_single_seed_has_no_interval_and_is_published_all_the_same(client):
    publish(record("single"), {0: history(0)}, summaries({0: {"recall_at_1": 0.5}}))
    (parent,) = runs(client, "single", "run")
    assert parent.data.metrics == {"recall_at_1": 0.5, "n": 1}


def test_a_training_is_seen_while_it_goes_on_and_finished_when_it_ends(client):
    with live(record("live"), enabled=True, every=1e-9) as log:
        for row in history(0):
            log(0)(row)
        assert {r.info.status for r in runs(client, "live", "run")} == {"RUNNING"}
        assert points(client, child(client, "live", 0), "alpha") == list(enumerate(ALPHAS))
    assert {r.info.status for r in runs(client, "live", "run")} == {"FINISHED"}
    assert {r.info.status for r in runs(client, "live", "seed")} == {"FINISHED"}
    assert points(client, child(client, "live", 0), "alpha") == list(enumerate(ALPHAS))


def test_a_training_that_raises_is_published_as_failed(client):
    def training():
        with live(record("failed"), enabled=True, every=3600) as log:
            log(0)(history(0)[0])
            raise FloatingPointError("loss")

    with pytest.raises(FloatingPointError, match="loss"):
        training()
    assert {r.info.status for r in runs(client, "failed", "run")} == {"FAILED"}
    assert points(client, child(client, "failed", 0), "alpha") == [(0, 16)]


def test_of_a_failed_training_the_seeds_that_were_done_are_finished(client):
    def training():
        with live(record("partly"), enabled=True, every=3600) as log:
            for seed, rows in {0: HISTORIES[0], 7: HISTORIES[7][:2]}.items():
                for row in rows:
                    log(seed)(row)
            raise FloatingPointError("loss of seed 7")

    with pytest.raises(FloatingPointError, match="seed 7"):
        training()
    assert {r.info.status for r in runs(client, "partly", "run")} == {"FAILED"}
    assert child(client, "partly", 0).info.status == "FINISHED"
    assert child(client, "partly", 7).info.status == "FAILED"


def test_a_failed_training_that_is_done_again_is_finished(client):
    publish(record("again"), {0: history(0, 1)}, {}, status="FAILED")
    publish(record("again"), HISTORIES, METRICS)
    assert {r.info.status for r in runs(client, "again", "run")} == {"FINISHED"}
    assert points(client, child(client, "again", 0), "alpha") == list(enumerate(ALPHAS))


def test_training_goes_on_when_tracking_fails(monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://nowhere")
    done = []
    with live(record("lost"), enabled=True, every=1e-9) as log:
        log(0)(history(0)[0])
        done.append("trained on")
    assert done == ["trained on"]
    assert "tracking failed, the stage track will make up for it" in capsys.readouterr().err


ROWS = """
import sys
from heated.tracking import live
try:
    with live({record}, enabled={enabled}, every={every}) as log:
        log(0)({{"epoch": 0, "alpha": 16.0}})
        if {fails}:
            raise ZeroDivisionError
except ZeroDivisionError:
    pass
print("mlflow" in sys.modules)
"""


@pytest.mark.parametrize(
    ("enabled", "every", "fails", "variable"),
    [
        (False, 1e-9, True, "on"),
        (True, 1e-9, True, "off"),
        (True, 3600, False, "on"),
    ],
    ids=["switched off in params.yaml", "switched off in the environment", "a short training"],
)
def test_mlflow_is_not_imported_for(tmp_path, enabled, every, fails, variable):
    code = ROWS.format(record=record("never"), enabled=enabled, every=every, fails=fails)
    environment = {**os.environ, "DVC_ROOT": str(tmp_path), "HEATED_TRACKING": variable}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("enabled", "variable", "expected"),
    [
        (True, None, True),
        (True, "on", True),
        (True, "off", False),
        (True, "OFF", False),
        (True, "0", False),
        (False, "on", False),
        (False, None, False),
    ],
)
def test_tracking_is_wanted_when_neither_side_switches_it_off(
    monkeypatch, enabled, variable, expected
):
    if variable is not None:
        monkeypatch.setenv("HEATED_TRACKING", variable)
    assert wanted(enabled) is expected


def test_mlflows_own_variable_names_the_store(monkeypatch, root):
    assert address() == f"sqlite:///{root}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert address() == "http://127.0.0.1:5000"


def test_nested_parameters_get_dotted_names():
    nested = {"a": {"b": {"c": 1}, "d": [2, 3]}, "e": None}
    assert flat(nested) == {"a.b.c": 1, "a.d": [2, 3], "e": None}
