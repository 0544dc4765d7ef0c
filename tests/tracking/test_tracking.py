import json
import os
import shutil
import subprocess
import sys
from datetime import datetime

import pytest
from tracked import (
    ALPHAS,
    HISTORIES,
    METRICS,
    MLFLOWS,
    NAMES,
    artifacts,
    history,
    record,
)

from heated.common.history import read_history, write_history
from heated.evaluation.summary import summaries
from heated.tracking import address, wanted
from heated.tracking.live import Live, live
from heated.tracking.publishing import publish

pytestmark = [
    pytest.mark.xdist_group("mlflow-tracking"),
    pytest.mark.mlflow,
    pytest.mark.filterwarnings(MLFLOWS),
]


@pytest.fixture(scope="module", autouse=True)
def root(tmp_path_factory, mlflow_template):
    """A project's folder with an empty MLflow database."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copy(mlflow_template, folder / "mlflow.db")
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
        assert points(client, run, NAMES[name]) == expected
    assert "epoch" not in run.data.metrics


@pytest.mark.parametrize("seed", HISTORIES)
def test_a_seeds_final_metrics_stand_at_step_0_of_which_mlflow_draws_bars(client, seed):
    run = child(client, "whole", seed)
    for name, summary in METRICS.items():
        assert points(client, run, f"final/{name}") == [(0, summary["seeds"][str(seed)])]


def test_the_parent_has_the_mean_its_interval_and_n(client):
    (parent,) = runs(client, "whole", "run")
    expected = {"interval/n": 2}
    for name, summary in METRICS.items():
        low, high = summary["interval"]
        expected |= {f"final/{name}": summary["mean"]}
        expected |= {f"interval/{name}_low": low, f"interval/{name}_high": high}
    curves = set(NAMES.values())
    assert {k: v for k, v in parent.data.metrics.items() if k not in curves} == expected
    assert {step for name in expected for step, _ in points(client, parent, name)} == {0}


def test_the_parent_has_the_curves_means_over_the_seeds(client):
    (parent,) = runs(client, "whole", "run")
    for column, name in NAMES.items():
        pairs = zip(*HISTORIES.values(), strict=True)
        expected = [(a["epoch"], (a[column] + b[column]) / 2) for a, b in pairs if column in a]
        assert points(client, parent, name) == expected


def test_parameters_are_flat_and_a_list_of_choices_is_its_names(client):
    run = child(client, "whole", 7)
    assert run.data.params == {
        "lr": "0.05",
        "epochs": str(len(ALPHAS)),
        "embedding_dim": "64",
        "alpha": "step",
        "alpha.start": "16.0",
        "alpha.end": "4.0",
        "alpha.at": "0.7",
        "augment": "crop, flip",
        "augment.crop.size": "7",
        "augment.flip.probability": "0.5",
        "seed": "7",
    }


def test_runs_are_grouped_by_tags_and_their_source_is_told(client):
    run = child(client, "whole", 7)
    expected = {
        "dataset": "digits",
        "recipe": "digits",
        "method": "hbn",
        "seed": "7",
        "study": "run",
        "backbone": "conv4",
        "source.commit": "c0ffee",
        "source.modified": "True",
        "source.stage": "train@digits-hbn",
        "environment.device": "made up",
        "mlflow.source.git.commit": "c0ffee",
    }
    assert expected.items() <= run.data.tags.items()
    assert "source.none" not in run.data.tags
    assert "seed" not in runs(client, "whole", "run")[0].data.tags


def test_the_data_set_has_digest_source_and_counts(client):
    (data,) = child(client, "whole", 7).inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("digits", ("ab" * 32)[:36])
    assert json.loads(data.dataset.source) == {"source": "digits", "dvc": "data/packed/digits"}
    assert json.loads(data.dataset.profile) == record("whole")["split"]
    assert [(tag.key, tag.value) for tag in data.tags] == [("mlflow.data.context", "training")]


def test_note_and_files_are_kept_and_brought_up_to_date(client):
    for text in ("one", "two", "two"):
        files = {None: {"a/b.txt": text}, 7: {"c.svg": text}}
        publish(record("files"), HISTORIES, METRICS, note=f"**{text}**", files=files)
    (parent,) = runs(client, "files", "run")
    assert parent.data.tags["mlflow.note.content"] == "**two**"
    assert artifacts(client, parent.info.run_id) == {"a/b.txt": b"two"}
    assert artifacts(client, child(client, "files", 7).info.run_id) == {"c.svg": b"two"}
    assert artifacts(client, child(client, "files", 0).info.run_id) == {}


def test_a_run_lasts_as_long_as_its_record_says(client):
    seconds = {"0": {"seconds": 20.5}, "7": {"seconds": 30.0}}
    publish(record("lasting"), HISTORIES, {})
    publish(record("lasting", seeds=seconds), HISTORIES, METRICS)
    start = 1000 * datetime.fromisoformat(record("lasting")["started"]).timestamp()
    infos = [child(client, "lasting", seed).info for seed in (0, 7)]
    infos += [run.info for run in runs(client, "lasting", "run")]
    assert [(i.start_time - start, i.end_time - start) for i in infos] == [
        (0, 20_500),
        (0, 30_000),
        (0, 50_500),
    ]


def test_an_epochs_moment_is_its_share_of_the_training(client):
    publish(record("timed", seeds={"0": {"seconds": 20.0}}), {0: history(0)}, {})
    found = client.get_metric_history(child(client, "timed", 0).info.run_id, "schedule/alpha")
    start = 1000 * datetime.fromisoformat(record("timed")["started"]).timestamp()
    assert [point.timestamp - start for point in found] == [5000, 10000, 15000, 20000]


def test_a_metric_that_is_measured_anew_is_the_latest(client):
    seeds = {str(seed): {"seconds": 20.0} for seed in HISTORIES}
    for value in (0.9, 0.5):
        metrics = summaries(dict.fromkeys(HISTORIES, {"recall_at_1": value}))
        publish(record("anew", seeds=seeds), HISTORIES, metrics)
    (parent,) = runs(client, "anew", "run")
    assert parent.data.metrics["final/recall_at_1"] == 0.5
    assert child(client, "anew", 7).data.metrics["final/recall_at_1"] == 0.5


def test_a_seed_more_writes_the_means_anew_and_no_curve_has_two_values(client):
    publish(record("more"), {0: history(0)}, summaries({0: {"recall_at_1": 0.5}}))
    publish(record("more"), HISTORIES, METRICS)
    (parent,) = runs(client, "more", "run")
    (whole,) = runs(client, "whole", "run")
    assert parent.data.metrics == whole.data.metrics
    for name in parent.data.metrics:
        assert points(client, parent, name) == points(client, whole, name)
    children = runs(client, "more", "seed")
    assert {c.data.tags["mlflow.parentRunId"] for c in children} == {parent.info.run_id}
    assert len(children) == 2


def test_what_a_broken_connection_left_out_of_a_run_is_added(client):
    experiment = client.get_experiment_by_name("digits").experiment_id
    tags = {"heated.key": "broken", "heated.kind": "run"}
    client.create_run(experiment, tags=tags, run_name="hbn · digits")
    publish(record("broken"), HISTORIES, METRICS)
    (broken,), (whole,) = runs(client, "broken", "run"), runs(client, "whole", "run")
    assert broken.data.params == whole.data.params
    assert len(broken.inputs.dataset_inputs) == 1
    assert broken.data.tags.keys() == whole.data.tags.keys()


def test_of_two_runs_that_two_machines_created_at_once_one_is_left(client):
    experiment = client.get_experiment_by_name("digits").experiment_id
    for start in (5000, 4000):
        tags = {"heated.key": "double", "heated.kind": "run"}
        client.create_run(experiment, start, tags, "hbn · digits")
    publish(record("double"), HISTORIES, METRICS)
    (left,) = runs(client, "double", "run")
    assert left.info.start_time == 4000


def test_a_seed_fewer_leaves_the_others_run_under_the_new_means(client):
    publish(record("fewer"), HISTORIES, METRICS)
    few = summaries({0: {name: summary["seeds"]["0"] for name, summary in METRICS.items()}})
    publish(record("fewer"), {0: HISTORIES[0]}, few)
    (parent,) = runs(client, "fewer", "run")
    assert parent.data.metrics["interval/n"] == 1
    for seed in HISTORIES:
        run = child(client, "fewer", seed)
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id


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
    assert points(client, child(client, "parts", 0), "schedule/alpha") == [(0, 16), (1, 16)]
    publish(record("parts"), HISTORIES, METRICS)
    assert {r.info.status for r in runs(client, "parts", "seed")} == {"FINISHED"}
    parts, whole = every_point(client, "parts"), every_point(client, "whole")
    assert sorted(parts.values()) == sorted(whole.values())
    assert len(runs(client, "parts", "run")) == 1


def test_a_single_seed_has_no_interval_and_is_published_all_the_same(client):
    publish(record("single"), {0: history(0)}, summaries({0: {"recall_at_1": 0.5}}))
    (parent,) = runs(client, "single", "run")
    final = {k: v for k, v in parent.data.metrics.items() if k not in NAMES.values()}
    assert final == {"final/recall_at_1": 0.5, "interval/n": 1}


def seen(client, key):
    """What is there of alpha."""
    started = runs(client, key, "seed")
    return points(client, started[0], "schedule/alpha") if started else []


def test_a_training_is_seen_while_it_goes_on(client):
    run = Live(record("live"), every=0)
    for row in history(0):
        run.log(0, row)
        assert run.sending is not None
        run.sending.result()
        assert seen(client, "live") == list(enumerate(ALPHAS[: row["epoch"] + 1]))
        assert {r.info.status for r in runs(client, "live", "run")} == {"RUNNING"}
    run.end("FINISHED")
    assert {r.info.status for r in runs(client, "live", "run")} == {"FINISHED"}


def test_a_training_that_ends_is_finished_with_all_its_rows(client):
    with live(record("ended"), enabled=True, every=0) as log:
        for row in history(0):  # some come while others are on their way
            log.log(0, row)
    assert {r.info.status for r in runs(client, "ended", "run")} == {"FINISHED"}
    assert {r.info.status for r in runs(client, "ended", "seed")} == {"FINISHED"}
    assert seen(client, "ended") == list(enumerate(ALPHAS))


def test_a_training_that_raises_is_published_as_failed(client):
    def training():
        with live(record("failed"), enabled=True, every=3600) as log:
            log.log(0, history(0)[0])
            raise FloatingPointError("loss")

    with pytest.raises(FloatingPointError, match="loss"):
        training()
    assert {r.info.status for r in runs(client, "failed", "run")} == {"FAILED"}
    assert points(client, child(client, "failed", 0), "schedule/alpha") == [(0, 16)]


def test_of_a_failed_training_the_seeds_that_were_done_are_finished(client):
    def training():
        with live(record("partly"), enabled=True, every=3600) as log:
            for seed, rows in {0: HISTORIES[0], 7: HISTORIES[7][:2]}.items():
                for row in rows:
                    log.log(seed, row)
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
    assert points(client, child(client, "again", 0), "schedule/alpha") == list(enumerate(ALPHAS))


def test_training_goes_on_when_tracking_fails(monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://nowhere")
    done = []
    with live(record("lost"), enabled=True, every=1e-9) as log:
        log.log(0, history(0)[0])
        done.append("trained on")
    assert done == ["trained on"]
    assert "tracking failed, the stage track will make up for it" in capsys.readouterr().err


ROWS = """
import json, os, sys
from heated.tracking.live import live
record, cases = json.loads(sys.argv[1])
for name, (enabled, every, fails, variable) in cases.items():
    os.environ["HEATED_TRACKING"] = variable
    try:
        with live(record, enabled=enabled, every=every) as logger:
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
        [sys.executable, "-c", ROWS, json.dumps([record("never"), cases])],
        env={**os.environ, "DVC_ROOT": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def test_tracking_is_wanted_when_neither_side_switches_it_off(monkeypatch, subtests):
    cases = [
        (True, None, True),
        (True, "on", True),
        (True, "off", False),
        (True, "OFF", False),
        (True, "0", False),
        (False, "on", False),
        (False, None, False),
    ]
    for enabled, variable, expected in cases:
        with (
            subtests.test(enabled=enabled, variable=variable, expected=expected),
            monkeypatch.context() as patch,
        ):
            if variable is not None:
                patch.setenv("HEATED_TRACKING", variable)
            assert wanted(enabled) is expected


def test_mlflows_own_variable_names_the_store(monkeypatch, root):
    assert address() == f"sqlite:///{root}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert address() == "http://127.0.0.1:5000"
