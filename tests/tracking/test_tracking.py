import json
import os
import re
import shutil
import subprocess
import sys
from datetime import datetime
from html import unescape
from pathlib import Path

import pytest
import tracked
from tracked import ALPHAS, HISTORIES, METRICS, NAMES, history, make_record, metric_points, seed_run

from heated import reporting
from heated.common.errors import InputError
from heated.common.history import read_history, write_history
from heated.evaluation.metrics import summarize_seeds
from heated.reporting.html import template_environment
from heated.reporting.run_results import Provenance
from heated.tracking import is_tracking_enabled, publish, tracking_uri
from heated.tracking.client import (
    DIGEST_TAG,
    NOTE_DIGEST_TAG,
    NOTE_TAG,
    OLD_FILES_TAG,
    PARENT_TAG,
    TITLE_TAG,
    Experiment,
)
from heated.tracking.live_logger import LiveLogger
from heated.tracking.publish import publish_report, publish_run
from heated.tracking.saved_view import VIEW_NAME, VIEW_TAG
from heated.tracking.store import open_store, wrap_mlflow_errors

pytestmark = [
    pytest.mark.xdist_group("mlflow-tracking"),
    pytest.mark.mlflow,
    pytest.mark.filterwarnings(tracked.MLFLOW_WARNING),
    pytest.mark.usefixtures("mlflow_folder"),
]
ALL_FINISHED = (["FINISHED"], ["FINISHED", "FINISHED"])


@pytest.fixture(scope="module")
def client(mlflow_folder):
    publish_run(make_record("whole"), HISTORIES, METRICS)
    return open_store()


@pytest.fixture(scope="module")
def parent(client):
    return tracked.method_run(client, "whole")


@pytest.fixture(scope="module")
def children(client):
    return {seed: seed_run(client, "whole", seed) for seed in HISTORIES}


def test_a_method_is_a_parent_run_and_a_seed_a_child_with_its_curves_and_final_metrics(
    client, parent, children, mlflow_folder
):
    experiment = client.get_experiment_by_name("digits")
    assert experiment.artifact_location == (mlflow_folder / "mlartifacts" / "digits").as_uri()
    assert parent.info.run_name == "hbn · digits"
    assert PARENT_TAG not in parent.data.tags
    assert tracked.statuses(client, "whole") == ALL_FINISHED
    for seed, run in children.items():
        assert run.info.run_name == f"hbn · digits · seed {seed}"
        assert run.data.tags[PARENT_TAG] == parent.info.run_id
        for name in {key for row in HISTORIES[seed] for key in row} - {"epoch"}:
            expected = [(row["epoch"], row[name]) for row in HISTORIES[seed] if name in row]
            assert metric_points(client, run, NAMES[name]) == expected
        for name, summary in METRICS.items():
            final = metric_points(client, run, f"final/{name}")
            assert final == [(0, summary["seeds"][str(seed)])]
        assert "epoch" not in run.data.metrics


def test_the_filter_in_the_report_finds_the_methods_run(client, parent):
    template = template_environment().get_template("reporting/templates/provenance.html")
    text = template.module.provenance(Provenance([], {}, {"hbn": {}}, {"hbn": "whole"}), "digits")
    (query,) = re.findall("<code>(tags.*?)</code>", unescape(text))
    experiment = client.get_experiment_by_name("digits")
    found = client.search_runs([experiment.experiment_id], query)
    assert [run.info.run_id for run in found] == [parent.info.run_id]


def test_the_parent_has_the_means_their_intervals_and_n(client, parent):
    expected = {"interval/n": 2}
    for name, summary in METRICS.items():
        expected |= {f"final/{name}": summary["mean"]}
    low, high = METRICS["recall_at_1"]["interval"]
    expected |= {"interval/recall_at_1_low": low, "interval/recall_at_1_high": high}
    curves = set(NAMES.values())
    assert {k: v for k, v in parent.data.metrics.items() if k not in curves} == expected
    assert {step for name in expected for step, _ in metric_points(client, parent, name)} == {0}
    for column, name in NAMES.items():
        pairs = zip(*HISTORIES.values(), strict=True)
        expected = [(a["epoch"], (a[column] + b[column]) / 2) for a, b in pairs if column in a]
        assert metric_points(client, parent, name) == expected


def test_parameters_tags_and_data_set_describe_a_run(parent, children):
    params = {"lr": "0.05", "epochs": str(len(ALPHAS)), "embedding_dim": "64"}
    params |= {"alpha.shape": "step", "alpha.start": "16.0", "alpha.end": "4.0", "alpha.at": "0.7"}
    params |= {"augment": "crop, flip", "augment.crop.size": "7", "augment.flip.p": "0.5"}
    assert parent.data.params == params
    assert children[7].data.params == params | {"seed": "7"}
    tags = tracked.TAGS | {"method": "hbn", "environment.device": "made up"}
    tags |= {"source.modified": "True", "source.stage": "train@digits-hbn"}
    tags |= dict.fromkeys(("source.commit", "mlflow.source.git.commit"), "c0ffee")
    assert (tags | {"seed": "7"}).items() <= children[7].data.tags.items()
    assert tags.items() <= parent.data.tags.items()
    assert not {"seed", "source.none"} & parent.data.tags.keys()
    (data,) = children[7].inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("digits", ("ab" * 32)[:36])
    assert json.loads(data.dataset.source) == {"source": "digits", "dvc": "data/packed/digits"}
    assert json.loads(data.dataset.profile) == make_record("whole")["split"]
    assert [(tag.key, tag.value) for tag in data.tags] == [("mlflow.data.context", "training")]


def test_a_run_lasts_as_long_as_its_record_says_and_an_epoch_its_share(client):
    record = make_record("lasting", seeds={"0": {"seconds": 20.5}, "7": {"seconds": 30.0}})
    publish_run(make_record("lasting"), HISTORIES, {})
    publish_run(record, HISTORIES, METRICS)
    start = 1000 * datetime.fromisoformat(record["started"]).timestamp()
    runs = [seed_run(client, "lasting", seed) for seed in (0, 7)]
    runs.append(tracked.method_run(client, "lasting"))
    times = [(run.info.start_time - start, run.info.end_time - start) for run in runs]
    assert times == [(0, 20_500), (0, 30_000), (0, 50_500)]
    points = client.get_metric_history(runs[1].info.run_id, "schedule/alpha")
    assert [point.timestamp - start for point in points] == [7500, 15000, 22500, 30000]


def test_a_run_of_the_same_content_is_kept(client, tmp_path):
    def all_fields():
        runs = tracked.record_runs(client, "whole", "run") + tracked.record_runs(
            client, "whole", "seed"
        )
        return sorted(((run.info.run_id, run.to_dictionary()) for run in runs), key=str)

    before, calls = all_fields(), []
    write_history(tmp_path / "history.csv", HISTORIES)
    for same in (HISTORIES, read_history(tmp_path / "history.csv")):
        publish_run(make_record("whole"), same, METRICS, draw=lambda: calls.append("drawn") or {})
    assert all_fields() == before
    assert calls == []


def test_other_metrics_files_note_or_code_replace_the_run(client, monkeypatch):
    record = make_record("changed")
    for text in ("one", "two"):
        files = {None: {"a/b.txt": text}, 7: {"c.svg": text}}
        publish_run(record, HISTORIES, METRICS, note=f"**{text}**", draw=lambda f=files: f)
    parent = tracked.method_run(client, "changed")
    assert parent.data.tags[NOTE_TAG] == "**two**"
    runs = [parent, *(seed_run(client, "changed", seed) for seed in (7, 0))]
    found = [tracked.artifacts(client, run.info.run_id) for run in runs]
    assert found == [{"a/b.txt": b"two"}, {"c.svg": b"two"}, {}]
    for value in (0.9, 0.5):
        metrics = summarize_seeds(dict.fromkeys(HISTORIES, {"recall_at_1": value}))
        publish_run(record, HISTORIES, metrics)
    parent = tracked.method_run(client, "changed")
    for run in (parent, seed_run(client, "changed", 7)):
        assert metric_points(client, run, "final/recall_at_1") == [(0, 0.5)]
    monkeypatch.setattr(publish, "code_digests", lambda: ["another"])
    assert publish_run(record, HISTORIES, metrics) != parent.info.run_id
    client.delete_run(seed_run(client, "changed", 7).info.run_id)
    publish_run(record, HISTORIES, metrics)  # restores a seed that a user deleted
    assert tracked.statuses(client, "changed") == ALL_FINISHED


def test_the_digest_is_of_the_code_that_writes_and_draws_and_of_matplotlib(tmp_path, monkeypatch):
    package = shutil.copytree(Path(reporting.__file__).parent, tmp_path / "reporting")
    monkeypatch.setattr(reporting, "__file__", str(package / "__init__.py"))
    digests = publish.code_digests.__wrapped__
    files = [next(package.rglob(pattern)) for pattern in ("*.py", "figures/*.py", "*.mplstyle")]
    for path in files:
        before = digests()
        path.write_text("changed")
        assert digests() != before
    before = digests()
    monkeypatch.setattr(publish, "version", lambda package: f"another {package}")
    assert digests() == ["another matplotlib", *before[1:]]


def test_a_replaced_run_keeps_what_users_wrote(client):
    def publish_with(note):
        run_id = publish_run(make_record("users"), HISTORIES, METRICS, note=note)
        run = client.get_run(run_id)
        return run_id, run.info.run_name, run.data.tags

    run_id, *_ = publish_with("ours")
    for tag in (DIGEST_TAG, TITLE_TAG, NOTE_DIGEST_TAG):  # as in an earlier version
        client.delete_tag(run_id, tag)
    client.set_tag(run_id, OLD_FILES_TAG, "ab")
    run_id, name, tags = publish_with("ours, a new version's")
    assert (name, tags[NOTE_TAG]) == ("hbn · digits", "ours, a new version's")
    assert OLD_FILES_TAG not in tags
    for tag, value in {"liked": "yes", "experiments": "two", "experiment": "ours"}.items():
        client.set_tag(run_id, tag, value)
    seed = seed_run(client, "users", 7)
    client.set_tag(seed.info.run_id, NOTE_TAG, "a user's note on a seed")
    users_child = client.create_run(seed.info.experiment_id, tags={PARENT_TAG: run_id}).info.run_id
    run_id, name, tags = publish_with("ours, again")
    assert (name, tags[NOTE_TAG]) == ("hbn · digits", "ours, again")
    assert client.get_run(users_child).data.tags[PARENT_TAG] == run_id
    client.set_tag(run_id, NOTE_TAG, "a user's note")
    client.update_run(run_id, name="the best")
    for text in ("ours, later", "ours, at last"):
        _, name, tags = publish_with(text)
        assert (name, tags[NOTE_TAG]) == ("the best", "a user's note")
        assert (tags["liked"], tags["experiments"]) == ("yes", "two")
        assert "experiment" not in tags
    assert seed_run(client, "users", 7).data.tags[NOTE_TAG] == "a user's note on a seed"
    assert NOTE_TAG not in seed_run(client, "users", 0).data.tags


def test_one_seed_more_or_fewer_replaces_the_means_and_no_curve_has_two_values(client):
    one = summarize_seeds({0: {name: summary["seeds"]["0"] for name, summary in METRICS.items()}})
    publish_run(make_record("seeds"), {0: history(0)}, one)
    metrics = tracked.method_run(client, "seeds").data.metrics
    final = {k: v for k, v in metrics.items() if k not in NAMES.values()}
    assert final == {"final/recall_at_1": 0.71, "final/map_at_r": 0.2, "interval/n": 1}
    publish_run(make_record("seeds"), HISTORIES, METRICS)
    assert tracked.record_points(client, "seeds") == tracked.record_points(client, "whole")
    publish_run(make_record("seeds"), {0: HISTORIES[0]}, one)
    parent = tracked.method_run(client, "seeds")
    assert parent.data.metrics["interval/n"] == 1
    for seed in HISTORIES:  # the one that was left out is kept
        assert seed_run(client, "seeds", seed).data.tags[PARENT_TAG] == parent.info.run_id


def test_an_incomplete_run_of_a_killed_process_is_replaced(client, monkeypatch):
    for step in ("create_run", "log_metrics", "delete_duplicates"):
        key, method, calls = f"killed {step}", getattr(Experiment, step), []

        def killed_at_second_call(*args, _method=method, _calls=calls, **kwargs):
            _calls.append(args)
            if len(_calls) == 2:
                raise KeyboardInterrupt
            return _method(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(Experiment, step, killed_at_second_call)
            with pytest.raises(KeyboardInterrupt):
                publish_run(make_record(key), HISTORIES, METRICS)
        publish_run(make_record(key), HISTORIES, METRICS)
        assert tracked.record_points(client, key) == tracked.record_points(client, "whole")
        assert tracked.statuses(client, key) == ALL_FINISHED


def test_one_of_two_runs_that_two_machines_wrote_at_once_is_kept(client):
    def create_run(**tags):
        return client.create_run(run.info.experiment_id, 4000, tags).info.run_id

    publish_run(make_record("double"), HISTORIES, METRICS)
    run = tracked.method_run(client, "double")
    tags = {name: run.data.tags[name] for name in (DIGEST_TAG, "heated.key", "heated.kind")}
    first, deleted = create_run(**tags), create_run(**tags)
    for parent in (first, deleted):
        for seed in HISTORIES:
            key = {"heated.key": f"double-{seed}", "heated.kind": "seed", "seed": str(seed)}
            create_run(**key, **{PARENT_TAG: parent})
    client.delete_run(deleted)  # by the other machine, before this one wrote the seeds' runs
    assert publish_run(make_record("double"), HISTORIES, METRICS) == first
    assert tracked.method_run(client, "double").info.run_id == first
    for seed in HISTORIES:
        assert seed_run(client, "double", seed).data.tags[PARENT_TAG] == first


def test_a_run_that_another_machine_deletes_at_the_same_time_counts_as_missing(client, monkeypatch):
    kept = publish_run(make_record("mutual"), HISTORIES, METRICS)
    tags = client.get_run(kept).data.tags
    experiment = Experiment("digits")
    other = {name: tags[name] for name in ("heated.key", "heated.kind")}
    client.create_run(experiment.id, 4000, other)
    monkeypatch.setattr(experiment.client, "delete_run", lambda run_id: client.delete_run(kept))
    assert experiment.delete_duplicates(tags[DIGEST_TAG], "mutual", HISTORIES) == ""


def test_a_report_is_one_run_that_is_brought_up_to_date(client):
    for text in ("one", "two", "two"):
        publish_report(make_record("any"), {"index.html": text}, note=text)
    (run,) = tracked.record_runs(client, "report · digits", "report")
    assert tracked.artifacts(client, run.info.run_id) == {"index.html": b"two"}
    assert run.info.status == "FINISHED"
    page = f"#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}/artifacts/index.html"
    tags = client.get_experiment(run.info.experiment_id).tags
    assert tags[NOTE_TAG] == f"[The report]({page}). two"
    assert not run.data.metrics  # no line or bar in a chart
    started = datetime.fromisoformat(make_record("any")["started"]).timestamp()
    assert run.info.start_time == 1000 * (started - 1)


def test_an_experiment_has_a_saved_view_which_a_user_may_change(client, monkeypatch, capsys):
    def view(dataset):
        publish_report(make_record("any") | {"dataset": dataset}, {}, note="")
        return client.get_experiment_by_name(dataset).tags.get(VIEW_TAG)

    state = view("digits")
    assert json.loads(state)["name"] == VIEW_NAME
    monkeypatch.setattr(publish, "view_text", lambda created_ms: "a new version's")
    assert view("digits") == "a new version's"
    experiment = client.get_experiment_by_name("digits").experiment_id
    client.set_experiment_tag(experiment, VIEW_TAG, "a user's")
    assert view("digits") == "a user's"
    assert capsys.readouterr().out == ""
    monkeypatch.setattr("mlflow.__file__", __file__)  # a folder without such pages
    assert view("another") is None
    assert "keeps saved views in another way" in capsys.readouterr().out


def test_a_moved_project_gets_the_advice_to_delete_the_store(
    client, mlflow_folder, tmp_path, monkeypatch
):
    shutil.copy(mlflow_folder / "mlflow.db", tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    with pytest.raises(InputError) as caught:
        publish_run(make_record("moved"), HISTORIES, METRICS)
    assert str(caught.value) == (
        f"mlflow.db: got artifacts in {mlflow_folder.as_uri()}, expected {tmp_path.as_uri()}: "
        "the project moved. Delete mlflow.db and run `make track`."
    )
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{mlflow_folder}/mlflow.db")
    publish_run(make_record("elsewhere"), HISTORIES, METRICS)  # a store that several projects share


def test_a_renamed_experiment_keeps_its_name_and_another_ones_folder_is_no_sign_of_a_move(
    mlflow_template, tmp_path, monkeypatch
):
    shutil.copy(mlflow_template, tmp_path / "mlflow.db")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    publish_run(make_record("renamed"), {}, {})
    client = open_store()
    client.create_experiment("theirs", artifact_location="file:///elsewhere/mlartifacts/theirs")
    client.rename_experiment(client.get_experiment_by_name("digits").experiment_id, "numbers")
    publish_run(make_record("renamed"), {}, {})
    names = {experiment.name for experiment in open_store().search_experiments()}
    assert names - {"Default"} == {"numbers", "theirs"}


def test_an_error_of_a_file_is_not_taken_for_one_of_mlflow():
    for error in (FileNotFoundError("history.csv"), OSError(28, "No space left on device")):
        with pytest.raises(OSError, match=error.args[-1]) as caught, wrap_mlflow_errors():
            raise error
        assert caught.value is error


def test_the_environment_switches_tracking_off_and_names_the_store(monkeypatch, mlflow_folder):
    for variable, enabled in {"on": True, "off": False, "OFF": False, "0": False}.items():
        monkeypatch.setenv("HEATED_TRACKING", variable)
        assert is_tracking_enabled(True) is enabled
        assert not is_tracking_enabled(False)
    assert tracking_uri() == f"sqlite:///{mlflow_folder}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert tracking_uri() == "http://127.0.0.1:5000"


def alphas(client, key):
    children = tracked.record_runs(client, key, "seed")
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
        assert tracked.statuses(client, "live")[0] == ["RUNNING"]
    logger.close("FINISHED")
    assert tracked.statuses(client, "live")[0] == ["FINISHED"]


def test_a_training_that_raises_is_failed_except_for_its_complete_seeds(client):
    cases = {
        "failed": ({0: history(0, 1)}, ["FAILED"]),
        "partly": ({0: HISTORIES[0], 7: HISTORIES[7][:2]}, ["FAILED", "FINISHED"]),
    }
    for key, (histories, expected) in cases.items():
        with pytest.raises(FloatingPointError, match="loss"):
            train(key, histories, 3600, FloatingPointError("loss"))
        assert tracked.statuses(client, key)[0] == ["FAILED"]
        assert sorted(tracked.statuses(client, key)[1]) == expected
    assert alphas(client, "failed") == [(0, 16)]
    assert seed_run(client, "partly", 7).info.status == "FAILED"


def test_an_interrupted_training_is_followed_by_one_run_and_published_as_one(client):
    first = LiveLogger(make_record("again"), enabled=True, interval_s=0)
    for row in history(0, 2):
        first.log(0, row)
    first.executor.shutdown()  # as if it was killed now
    assert tracked.statuses(client, "again") == (["RUNNING"], ["RUNNING"])
    train("again", HISTORIES, 0)  # some rows are logged during an upload
    assert tracked.statuses(client, "again") == ALL_FINISHED
    points = metric_points(client, seed_run(client, "again", 0), "schedule/alpha")
    assert points == list(enumerate(ALPHAS))
    publish_run(make_record("again"), HISTORIES, METRICS)
    assert tracked.record_points(client, "again") == tracked.record_points(client, "whole")
    assert tracked.statuses(client, "again") == ALL_FINISHED


def test_two_equal_trainings_at_once_are_one_run_without_an_error(client, capsys):
    record = make_record("twice")
    loggers = [LiveLogger(record, enabled=True, interval_s=0) for _ in range(2)]
    for row in history(0):
        for logger in loggers:
            logger.log(0, row)
            logger.upload.result()
    run_id = tracked.method_run(client, "twice").info.run_id
    for logger in loggers:
        logger.close("FINISHED")
    assert tracked.statuses(client, "twice") == (["FINISHED"], ["FINISHED"])
    assert tracked.method_run(client, "twice").info.run_id == run_id
    assert alphas(client, "twice") == list(enumerate(ALPHAS))
    assert capsys.readouterr().err == ""


def test_training_continues_when_tracking_fails(mlflow_folder, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://nowhere")
    train("lost", {0: history(0)[:1]}, 1e-9)
    assert "Tracking failed: " in capsys.readouterr().err


UNTRACKED = """
import json, os, sys
from contextlib import suppress
from heated.tracking.live_logger import LiveLogger
record, cases = json.loads(sys.argv[1])
for name, (enabled, interval_s, fails, variable) in cases.items():
    os.environ["HEATED_TRACKING"] = variable
    with suppress(ZeroDivisionError), LiveLogger(record, enabled, interval_s) as logger:
        logger.log(0, {"epoch": 0, "alpha": 16.0})
        1 / (not fails)
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
    command = [sys.executable, "-c", UNTRACKED, json.dumps([make_record("never"), cases])]
    environment = os.environ | {"DVC_ROOT": str(tmp_path)}
    assert subprocess.check_output(command, env=environment, text=True) == "done\n"
