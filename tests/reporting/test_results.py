from dataclasses import replace

import pytest
from reported import METHODS, history

from heated.reporting.results import curve_rows, headlines, read_results


def test_runs_are_read_in_the_order_of_the_methods_asked_for(runs):
    for methods in (["hbn", "bn"], ["bn", "hbn"], ["bn"]):
        assert [r.method for r in read_results(runs, "digits", methods)] == methods


def test_a_run_is_read_with_its_metrics_history_and_record(results):
    hbn, bn = results
    assert bn.metrics["recall_at_1"]["seeds"] == {"0": 0.5, "1": 0.75}
    assert bn.history == {0: history("bn", 0), 1: history("bn", 1)}
    assert hbn.record["method"] == "hbn"


def test_a_missing_file_names_the_stage_that_makes_it(runs):
    stages = {"metrics.json": "evaluate", "history.csv": "train", "provenance.json": "train"}
    for name, stage in stages.items():
        path = runs / "digits" / "bn" / name
        content = path.read_bytes()
        path.unlink()
        with pytest.raises(FileNotFoundError, match=f"{name} is missing: the stage '{stage}'"):
            read_results(runs, "digits", METHODS)
        path.write_bytes(content)


def test_a_curve_is_the_mean_over_seeds_of_the_epochs_that_have_it(results):
    hbn, bn = results
    assert bn.curve("loss") == ([0, 1, 2], [1.5, 2.5, 3.5])
    assert bn.curve("recall_at_1") == ([2], [0.625])
    assert hbn.curve("loss") == ([0, 1, 2], [1.0, 2.0, 3.0])
    assert hbn.curve("absent") == ([], [])


def test_heating_is_at_the_first_epoch_with_a_smaller_alpha(results):
    assert [result.heated_at() for result in results] == [2, None]


def test_the_headlines_are_means_by_method_without_those_that_were_not_computed(results):
    hbn = {"recall_at_1": 0.75, "map_at_r": 0.25, "nmi_geometric": 0.5}
    bn = {"recall_at_1": 0.625, "map_at_r": 0.15, "nmi_geometric": 0.425}
    assert headlines(results) == {"hbn": hbn, "bn": pytest.approx(bn)}
    metrics = {name: each for name, each in results[0].metrics.items() if name != "recall_at_1"}
    found = headlines([replace(results[0], metrics=metrics)])
    assert found == {"hbn": {"map_at_r": 0.25, "nmi_geometric": 0.5}}


def test_curve_rows_have_a_row_for_each_method_and_epoch(results):
    rows = curve_rows(results)
    pairs = [(method, epoch) for method in METHODS for epoch in range(3)]
    assert [(row["method"], row["epoch"]) for row in rows] == pairs
    values = {"alpha": 4.0, "loss": 3.0, "accuracy": 0.7, "recall_at_1": 0.5}
    assert rows[2] == {"dataset": "digits", "method": "hbn", "epoch": 2, **values}
    assert "recall_at_1" not in rows[0]
    assert rows[5]["recall_at_1"] == 0.625


def test_accuracy_is_that_of_the_last_epoch_and_the_rest_the_metrics_by_seed(results):
    values = results[1].values()
    assert values["accuracy"] == {0: 0.7, 1: 0.7}
    assert values["recall_at_1"] == {0: 0.5, 1: 0.75}
    rows = [{k: v for k, v in row.items() if k != "accuracy"} for row in history("bn", 0)]
    assert "accuracy" not in replace(results[1], history={0: rows}).values()  # names no class
