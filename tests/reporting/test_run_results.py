import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from reported import METHODS, history
from ruamel.yaml import YAML

from heated.common.errors import InputError
from heated.common.io import write_csv, write_json
from heated.common.outputs import check_outputs, dvc_md5
from heated.evaluation.metrics import mean_with_interval
from heated.reporting.run_results import curve_rows, headline_means, read_results


def test_runs_are_read_in_order_with_metrics_history_and_record(runs, results):
    for methods in (["hbn", "bn"], ["bn", "hbn"], ["bn"]):
        assert [r.method for r in read_results(runs, "digits", methods)] == methods
    hbn, bn = results
    assert bn.metrics["recall_at_1"]["seeds"] == {"0": 0.5, "1": 0.75}
    assert bn.history == {0: history("bn", 0), 1: history("bn", 1)}
    assert hbn.record["method"] == "hbn"
    stages = {"metrics.json": "evaluate", "history.csv": "train", "provenance.json": "train"}
    for name, stage in stages.items():  # which an error about a missing file names
        path = runs / "digits" / "bn" / name
        content = path.read_bytes()
        path.unlink()
        with pytest.raises(FileNotFoundError, match=rf"{name}.*'{stage}'"):
            read_results(runs, "digits", METHODS)
        path.write_bytes(content)


def test_a_missing_seed_is_refused_with_the_stage_that_lost_it(runs):
    folder = runs / "digits/bn"

    def error() -> str:
        with pytest.raises(InputError) as caught:
            read_results(runs, "digits", METHODS)
        return str(caught.value)

    history, metrics = (folder / name for name in ("history.csv", "metrics.json"))
    kept, summaries = history.read_text(), json.loads(metrics.read_text())
    history.write_text("".join(line for line in kept.splitlines(True) if line[:2] != "1,"))
    assert (
        "history.csv: got results of the seeds 0, expected 0, 1. Run the stage 'train'" in error()
    )
    history.write_text(kept)
    write_json(folder / "gradients.json", {"seeds": {"0": {}}})
    assert "models/seed-1.safetensors: got results of the seeds 0, expected 0, 1" in error()
    (folder / "gradients.json").unlink()
    write_csv(folder / "class_scores.csv", [{"seed": 0, "label": 1, "queries": 2}])
    assert "models/seed-1.safetensors: got results of the seeds 0, expected 0, 1" in error()
    (folder / "class_scores.csv").unlink()
    del summaries["map_at_r"]["seeds"]["1"]
    write_json(metrics, summaries)
    for lost, stage in [("models/seed-1.safetensors", "train"), ("embeddings/seed-1.npz", "embed")]:
        assert f"{lost}: got results of the seeds 0, expected 0, 1. Run the stage" in error()
        assert f"(dvc repro --force {stage}@digits-bn), then `dvc repro`." in error()
        (folder / lost).parent.mkdir()
        (folder / lost).touch()
    assert "metrics.json: got results of the seeds 0, expected 0, 1. Run the stage 'eval" in error()


@pytest.mark.parametrize(
    ("name", "stage"),
    {"class_scores.csv": "evaluate", "tuned.json": "tune", "gradients.json": "gradients"}.items(),
)
def test_a_missing_file_is_refused_where_the_settings_say_that_the_run_has_it(runs, name, stage):
    read_results(runs, "digits", METHODS)
    with pytest.raises(FileNotFoundError, match=f"bn/{name}.*'{stage}'"):
        read_results(runs, "digits", METHODS, {"bn": [name]})


def test_files_that_differ_from_their_digests_are_refused_and_made_new(runs, monkeypatch):
    monkeypatch.chdir(runs.parent)
    folder = runs.relative_to(runs.parent) / "digits/bn"
    (folder / "models").mkdir()
    (folder / "models/seed-0").write_bytes(b"weights")
    outs = [folder / name for name in ("metrics.json", "history.csv", "models")]
    records = [{"path": path.as_posix(), "md5": dvc_md5(path)} for path in outs]
    former = {"outs": [records[0] | {"md5": "of an earlier run"}]}  # of a stage that is no more
    stages = {"old": former, "evaluate@digits-bn": {"outs": records}}
    YAML().dump({"stages": stages}, Path("dvc.lock"))
    read_results(runs.relative_to(runs.parent), "digits", METHODS)
    check_outputs(outs)
    for path in (folder / "metrics.json", folder / "models/seed-0"):
        content, before = path.read_bytes(), path.stat()
        path.write_bytes(content[:5] + b"?" + content[6:])
        path.chmod(0o444)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as DVC knows it
        with pytest.raises(InputError, match="got the MD5 .* expected .*Run `dvc repro`,"):
            check_outputs(outs)
        after = path.stat()
        assert (after.st_mode & 0o200, after.st_mtime_ns > before.st_mtime_ns) == (0o200, True)
        path.write_bytes(content)


def test_the_band_of_a_curve_is_the_interval_of_the_mean(results):
    hbn, bn = results
    for result in results:
        epochs = range(len(result.curve("loss")[0]))
        for epoch, half in zip(epochs, result.curve_half_widths("loss"), strict=True):
            seeds = {seed: rows[epoch]["loss"] for seed, rows in result.history.items()}
            low, high = mean_with_interval(seeds)["interval"] or (0, 0)  # of one seed
            assert half == pytest.approx((high - low) / 2)
    assert any(bn.curve_half_widths("loss")) or any(hbn.curve_half_widths("loss"))


def test_a_curve_is_the_mean_over_seeds_of_the_epochs_that_have_the_column(results):
    hbn, bn = results
    assert bn.curve("loss") == ([0, 1, 2], [1.5, 2.5, 3.5])
    assert bn.curve("recall_at_1") == ([2], [0.625])
    assert hbn.curve("loss") == ([0, 1, 2], [1.0, 2.0, 3.0])
    assert hbn.curve("absent") == ([], [])
    assert [result.heating_epoch() for result in results] == [2, None]
    rows = curve_rows(results)
    pairs = [(method, epoch) for method in METHODS for epoch in range(3)]
    assert [(row["method"], row["epoch"]) for row in rows] == pairs
    values = {"alpha": 4.0, "loss": 3.0, "accuracy": 0.7, "recall_at_1": 0.5}
    assert rows[2] == {"dataset": "digits", "method": "hbn", "epoch": 2, **values}
    assert "recall_at_1" not in rows[0]
    assert rows[5]["recall_at_1"] == 0.625


def test_headlines_are_means_without_missing_metrics(results):
    hbn = {"recall_at_1": 0.75, "map_at_r": 0.25, "nmi_geometric": 0.5}
    bn = {"recall_at_1": 0.625, "map_at_r": 0.15, "nmi_geometric": 0.425}
    assert [headline_means(result) for result in results] == [hbn, pytest.approx(bn)]
    metrics = {"map_at_r": results[0].metrics["map_at_r"]}
    assert headline_means(replace(results[0], metrics=metrics)) == {"map_at_r": 0.25}


def test_values_by_seed_are_the_metrics_and_the_accuracy_of_the_last_epoch(results):
    values = results[1].values_by_seed()
    assert values["accuracy"] == {0: 0.7, 1: 0.7}
    assert values["recall_at_1"] == {0: 0.5, 1: 0.75}
    # A pairwise loss has no accuracy.
    assert "accuracy" not in replace(results[1], history={0: [{"loss": 1}]}).values_by_seed()
