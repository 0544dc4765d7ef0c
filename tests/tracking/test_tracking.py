import json
import os
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path

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

from heated import reporting
from heated.common.errors import InputError
from heated.common.history import read_history, write_history
from heated.evaluation.summary import summaries
from heated.tracking import address, publishing, wanted
from heated.tracking.live import Live, live
from heated.tracking.publishing import publish, publish_report
from heated.tracking.store import DIGEST, FILES, NOTE, PARENT, TITLE, WRITTEN, Store, opened, told

pytestmark = [
    pytest.mark.xdist_group("mlflow-tracking"),
    pytest.mark.mlflow,
    pytest.mark.filterwarnings(MLFLOWS),
    pytest.mark.usefixtures("mlflow_folder"),
]


@pytest.fixture(scope="module")
def client(mlflow_folder):
    publish(record("whole"), HISTORIES, METRICS)
    return opened()


@pytest.fixture(scope="module")
def whole(client):
    """A method's run and its seeds'."""
    return runs(client, "whole", "run")[0], {seed: child(client, "whole", seed) for seed in (0, 7)}


def runs(client, key, kind):
    """The runs of a record, found as a user finds them."""
    experiment = client.get_experiment_by_name("digits").experiment_id
    found = client.search_runs([experiment], f"tags.`heated.kind` = '{kind}'")
    return [r for r in found if r.data.tags["heated.key"].split("-")[0] == key]


def child(client, key, seed):
    (found,) = [r for r in runs(client, key, "seed") if r.data.params["seed"] == str(seed)]
    return found


def statuses(client, key):
    """Of a method's runs and its seeds'."""
    return tuple([run.info.status for run in runs(client, key, kind)] for kind in ("run", "seed"))


def points(client, run, name):
    return sorted((p.step, p.value) for p in client.get_metric_history(run.info.run_id, name))


def every_point(client, key):
    """Of all metrics of all runs of a record, without the runs' ids."""
    every = runs(client, key, "run") + runs(client, key, "seed")
    return sorted((n, points(client, r, n)) for r in every for n in r.data.metrics)


def shown(client, key):
    """All that is there of a record, with the runs' ids and the moments of writing."""
    found = runs(client, key, "run") + runs(client, key, "seed")
    return sorted(((r.info.run_id, r.to_dictionary()) for r in found), key=str)


def test_a_data_set_is_an_experiment_a_method_a_parent_run_and_each_seed_a_child(
    client, whole, mlflow_folder
):
    experiment = client.get_experiment_by_name("digits")
    assert experiment.artifact_location == (mlflow_folder / "mlartifacts" / "digits").as_uri()
    parent, children = whole
    assert parent.info.run_name == "hbn · digits"
    assert PARENT not in parent.data.tags
    for seed, run in children.items():
        assert run.info.run_name == f"hbn · digits · seed {seed}"
        assert run.data.tags[PARENT] == parent.info.run_id
    assert statuses(client, "whole") == (["FINISHED"], ["FINISHED", "FINISHED"])


def test_a_seed_has_every_epochs_row_and_its_final_metrics_at_step_0(client, whole):
    for seed, run in whole[1].items():
        for name in {key for row in HISTORIES[seed] for key in row} - {"epoch"}:
            expected = [(row["epoch"], row[name]) for row in HISTORIES[seed] if name in row]
            assert points(client, run, NAMES[name]) == expected
        for name, summary in METRICS.items():
            assert points(client, run, f"final/{name}") == [(0, summary["seeds"][str(seed)])]
        assert "epoch" not in run.data.metrics


def test_the_parent_has_the_means_their_intervals_and_n(client, whole):
    parent, _ = whole
    expected = {"interval/n": 2}
    for name, summary in METRICS.items():
        low, high = summary["interval"]
        expected |= {f"final/{name}": summary["mean"]}
        expected |= {f"interval/{name}_low": low, f"interval/{name}_high": high}
    curves = set(NAMES.values())
    assert {k: v for k, v in parent.data.metrics.items() if k not in curves} == expected
    assert {step for name in expected for step, _ in points(client, parent, name)} == {0}
    for column, name in NAMES.items():
        pairs = zip(*HISTORIES.values(), strict=True)
        expected = [(a["epoch"], (a[column] + b[column]) / 2) for a, b in pairs if column in a]
        assert points(client, parent, name) == expected


def test_parameters_tags_and_data_set_tell_what_a_run_was(whole):
    parent, children = whole
    params = {
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
    }
    assert parent.data.params == params
    assert children[7].data.params == params | {"seed": "7"}
    tags = {
        "dataset": "digits",
        "recipe": "digits",
        "method": "hbn",
        "study": "run",
        "backbone": "conv4",
        "source.commit": "c0ffee",
        "source.modified": "True",
        "source.stage": "train@digits-hbn",
        "environment.device": "made up",
        "mlflow.source.git.commit": "c0ffee",
    }
    assert (tags | {"seed": "7"}).items() <= children[7].data.tags.items()
    assert tags.items() <= parent.data.tags.items()
    assert not {"seed", "source.none"} & parent.data.tags.keys()
    (data,) = children[7].inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("digits", ("ab" * 32)[:36])
    assert json.loads(data.dataset.source) == {"source": "digits", "dvc": "data/packed/digits"}
    assert json.loads(data.dataset.profile) == record("whole")["split"]
    assert [(tag.key, tag.value) for tag in data.tags] == [("mlflow.data.context", "training")]


def test_a_run_lasts_as_long_as_its_record_says_and_an_epoch_its_share(client):
    seconds = {"0": {"seconds": 20.5}, "7": {"seconds": 30.0}}
    publish(record("lasting"), HISTORIES, {})
    publish(record("lasting", seeds=seconds), HISTORIES, METRICS)
    start = 1000 * datetime.fromisoformat(record("lasting")["started"]).timestamp()
    (parent,) = runs(client, "lasting", "run")
    infos = [child(client, "lasting", seed).info for seed in (0, 7)] + [parent.info]
    times = [(info.start_time - start, info.end_time - start) for info in infos]
    assert times == [(0, 20_500), (0, 30_000), (0, 50_500)]
    found = client.get_metric_history(child(client, "lasting", 7).info.run_id, "schedule/alpha")
    assert [point.timestamp - start for point in found] == [7500, 15000, 22500, 30000]


def test_a_run_of_the_same_content_is_left_alone(client, tmp_path):
    before, drawn = shown(client, "whole"), []
    write_history(tmp_path / "history.csv", HISTORIES)
    for same in (HISTORIES, read_history(tmp_path / "history.csv")):
        publish(record("whole"), same, METRICS, files=lambda: drawn.append("drawn") or {})
    assert shown(client, "whole") == before
    assert drawn == []


def test_other_metrics_files_note_or_code_write_the_run_anew(client, monkeypatch):
    for text in ("one", "two"):
        files = {None: {"a/b.txt": text}, 7: {"c.svg": text}}
        publish(record("anew"), HISTORIES, METRICS, note=f"**{text}**", files=lambda f=files: f)
    (parent,) = runs(client, "anew", "run")
    assert parent.data.tags[NOTE] == "**two**"
    assert artifacts(client, parent.info.run_id) == {"a/b.txt": b"two"}
    assert artifacts(client, child(client, "anew", 7).info.run_id) == {"c.svg": b"two"}
    assert artifacts(client, child(client, "anew", 0).info.run_id) == {}
    for value in (0.9, 0.5):
        metrics = summaries(dict.fromkeys(HISTORIES, {"recall_at_1": value}))
        publish(record("anew"), HISTORIES, metrics)
    (parent,) = runs(client, "anew", "run")
    for run in (parent, child(client, "anew", 7)):
        assert points(client, run, "final/recall_at_1") == [(0, 0.5)]
    monkeypatch.setattr(publishing, "code", lambda: ["another"])
    assert publish(record("anew"), HISTORIES, metrics) != parent.info.run_id
    client.delete_run(child(client, "anew", 7).info.run_id)
    publish(record("anew"), HISTORIES, metrics)  # a seed that a user deleted is there again
    assert statuses(client, "anew") == (["FINISHED"], ["FINISHED", "FINISHED"])


def test_the_digest_is_of_the_code_that_writes_and_draws_and_of_matplotlib(tmp_path, monkeypatch):
    package = shutil.copytree(Path(reporting.__file__).parent, tmp_path / "reporting")
    monkeypatch.setattr(reporting, "__file__", str(package / "__init__.py"))
    code = publishing.code.__wrapped__
    for name in ("results.py", "paper.py", "figures/planes.py", "figures/report.mplstyle"):
        before = code()
        (package / name).write_text("changed")
        assert code() != before
    before = code()
    monkeypatch.setattr(publishing, "version", lambda package: f"another {package}")
    assert code() == ["another matplotlib", *before[1:]]


def test_a_run_written_anew_keeps_what_users_wrote(client):
    def note(text):
        return publish(record("users"), HISTORIES, METRICS, note=text)

    number = note("ours")
    for tag, value in {"liked": "yes", "experiments": "two", "experiment": "ours"}.items():
        client.set_tag(number, tag, value)
    client.set_tag(child(client, "users", 7).info.run_id, NOTE, "a seed of theirs")
    below = client.create_run(child(client, "users", 7).info.experiment_id, tags={PARENT: number})
    number = note("ours, again")
    assert client.get_run(number).data.tags[NOTE] == "ours, again"
    assert client.get_run(number).info.run_name == "hbn · digits"
    assert client.get_run(below.info.run_id).data.tags[PARENT] == number
    client.set_tag(number, NOTE, "theirs")
    client.update_run(number, name="the best")
    for text in ("ours, later", "ours, at last"):
        run = client.get_run(note(text))
        tags = run.data.tags
        assert (tags[NOTE], tags["liked"], tags["experiments"]) == ("theirs", "yes", "two")
        assert run.info.run_name == "the best"
        assert "experiment" not in tags
    assert child(client, "users", 7).data.tags[NOTE] == "a seed of theirs"
    assert NOTE not in child(client, "users", 0).data.tags


def test_a_note_of_an_earlier_version_is_ours(client):
    number = publish(record("before"), HISTORIES, METRICS, note="ours")
    for tag in (DIGEST, TITLE, WRITTEN):
        client.delete_tag(number, tag)
    client.set_tag(number, FILES, "ab")
    number = publish(record("before"), HISTORIES, METRICS, note="ours, later")
    assert client.get_run(number).data.tags[NOTE] == "ours, later"
    assert FILES not in client.get_run(number).data.tags
    assert client.get_run(number).info.run_name == "hbn · digits"


def test_a_seed_more_or_fewer_writes_the_means_anew_and_no_curve_has_two_values(client, whole):
    one = summaries({0: {name: summary["seeds"]["0"] for name, summary in METRICS.items()}})
    publish(record("seeds"), {0: history(0)}, one)
    (parent,) = runs(client, "seeds", "run")
    final = {k: v for k, v in parent.data.metrics.items() if k not in NAMES.values()}
    assert final == {"final/recall_at_1": 0.71, "final/map_at_r": 0.2, "interval/n": 1}
    publish(record("seeds"), HISTORIES, METRICS)
    assert every_point(client, "seeds") == every_point(client, "whole")
    publish(record("seeds"), {0: HISTORIES[0]}, one)
    (parent,) = runs(client, "seeds", "run")
    assert parent.data.metrics["interval/n"] == 1
    for seed in HISTORIES:  # the one that was left out is kept
        assert child(client, "seeds", seed).data.tags[PARENT] == parent.info.run_id


def test_what_a_killed_process_left_is_replaced(client, monkeypatch):
    for step in ("create", "log", "attach", "whole"):
        key = f"killed {step}"
        with monkeypatch.context() as patch:
            patch.setattr(Store, step, killed_at_second(getattr(Store, step)))
            with pytest.raises(KeyboardInterrupt):
                publish(record(key), HISTORIES, METRICS)
        publish(record(key), HISTORIES, METRICS)
        assert every_point(client, key) == every_point(client, "whole")
        assert statuses(client, key) == (["FINISHED"], ["FINISHED", "FINISHED"])


def killed_at_second(method):
    """The method, whose second call never returns."""
    calls = []

    def called(*given, **more):
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return method(*given, **more)

    return called


def test_of_two_runs_that_two_machines_wrote_at_once_one_is_left(client):
    publish(record("double"), HISTORIES, METRICS)
    (run,) = runs(client, "double", "run")
    tags = {name: run.data.tags[name] for name in (DIGEST, "heated.key", "heated.kind")}
    first = client.create_run(run.info.experiment_id, 4000, tags, "hbn · digits")
    for seed in HISTORIES:
        below = {PARENT: first.info.run_id, "seed": str(seed)}
        client.create_run(run.info.experiment_id, 4000, below)
    assert publish(record("double"), HISTORIES, METRICS) == first.info.run_id
    assert [r.info.run_id for r in runs(client, "double", "run")] == [first.info.run_id]


def test_a_report_is_one_run_that_is_brought_up_to_date(client):
    for text in ("one", "two", "two"):
        publish_report(record("any"), {"index.html": text}, note=text)
    (run,) = runs(client, "report · digits", "report")
    assert artifacts(client, run.info.run_id) == {"index.html": b"two"}
    assert run.info.status == "FINISHED"
    assert client.get_experiment(run.info.experiment_id).tags[NOTE] == "two"


def test_a_project_that_moved_is_told_to_delete_the_store_and_track_again(
    client, mlflow_folder, tmp_path, monkeypatch
):
    shutil.copy(mlflow_folder / "mlflow.db", tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    with pytest.raises(InputError) as caught:
        publish(record("moved"), HISTORIES, METRICS)
    told = str(caught.value)
    assert told == (
        f"mlflow.db: got artifacts in {mlflow_folder.as_uri()}, expected {tmp_path.as_uri()}: "
        "the project moved. Delete mlflow.db and run `make track`"
    )
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{mlflow_folder}/mlflow.db")
    publish(record("elsewhere"), HISTORIES, METRICS)  # a store that several projects share


def test_experiments_that_a_user_renamed_or_made_do_not_tell_of_a_project_that_moved(
    mlflow_template, tmp_path, monkeypatch
):
    shutil.copy(mlflow_template, tmp_path / "mlflow.db")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    publish(record("renamed"), {}, {})
    users = opened()
    users.create_experiment("theirs", artifact_location="file:///elsewhere/mlartifacts/theirs")
    users.rename_experiment(users.get_experiment_by_name("digits").experiment_id, "numbers")
    publish(record("renamed"), {}, {})
    names = {experiment.name for experiment in opened().search_experiments()}
    assert names >= {"digits", "numbers", "theirs"}


def test_an_error_of_a_file_is_not_told_as_one_of_mlflow():
    for error in (FileNotFoundError("history.csv"), OSError(28, "No space left on device")):
        with pytest.raises(OSError, match=error.args[-1]) as caught, told():
            raise error
        assert caught.value is error


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


def test_a_training_that_raises_is_published_as_failed_but_for_the_seeds_that_were_done(client):
    def training(key, given):
        with live(record(key), enabled=True, every=3600) as log:
            for seed, rows in given.items():
                for row in rows:
                    log.log(seed, row)
            raise FloatingPointError("loss")

    cases = {
        "failed": ({0: history(0, 1)}, ["FAILED"]),
        "partly": ({0: HISTORIES[0], 7: HISTORIES[7][:2]}, ["FAILED", "FINISHED"]),
    }
    for key, (given, expected) in cases.items():
        with pytest.raises(FloatingPointError, match="loss"):
            training(key, given)
        assert statuses(client, key)[0] == ["FAILED"]
        assert sorted(statuses(client, key)[1]) == expected
    assert points(client, child(client, "failed", 0), "schedule/alpha") == [(0, 16)]
    assert child(client, "partly", 7).info.status == "FAILED"


def test_a_training_that_was_cut_off_is_followed_by_one_run_and_tracked_as_one(client):
    first = Live(record("again"), every=0)
    for row in history(0, 2):
        first.log(0, row)
    first.sender.shutdown()  # as if it was killed now
    assert statuses(client, "again") == (["RUNNING"], ["RUNNING"])
    with live(record("again"), enabled=True, every=0) as log:
        for seed, rows in HISTORIES.items():
            for row in rows:
                log.log(seed, row)
    assert statuses(client, "again") == (["FINISHED"], ["FINISHED", "FINISHED"])
    assert points(client, child(client, "again", 0), "schedule/alpha") == list(enumerate(ALPHAS))
    publish(record("again"), HISTORIES, METRICS)
    assert every_point(client, "again") == every_point(client, "whole")
    assert statuses(client, "again") == (["FINISHED"], ["FINISHED", "FINISHED"])


def test_two_equal_trainings_at_once_are_one_run_without_an_error(client, capsys):
    loggers = [Live(record("twice"), every=0) for _ in range(2)]
    for row in history(0):
        for run in loggers:
            run.log(0, row)
            run.sending.result()
    (parent,) = runs(client, "twice", "run")
    for run in loggers:
        run.end("FINISHED")
    assert statuses(client, "twice") == (["FINISHED"], ["FINISHED"])
    assert runs(client, "twice", "run")[0].info.run_id == parent.info.run_id
    assert seen(client, "twice") == list(enumerate(ALPHAS))
    assert capsys.readouterr().err == ""


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


def test_mlflows_own_variable_names_the_store(monkeypatch, mlflow_folder):
    assert address() == f"sqlite:///{mlflow_folder}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert address() == "http://127.0.0.1:5000"
