from dataclasses import replace

import pytest
from reported import METHODS, history

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


def test_headlines_are_means_by_method_without_missing_metrics(results):
    hbn = {"recall_at_1": 0.75, "map_at_r": 0.25, "nmi_geometric": 0.5}
    bn = {"recall_at_1": 0.625, "map_at_r": 0.15, "nmi_geometric": 0.425}
    assert headline_means(results) == {"hbn": hbn, "bn": pytest.approx(bn)}
    metrics = {"map_at_r": results[0].metrics["map_at_r"]}
    assert headline_means([replace(results[0], metrics=metrics)]) == {"hbn": {"map_at_r": 0.25}}


def test_values_by_seed_are_the_metrics_and_the_accuracy_of_the_last_epoch(results):
    values = results[1].values_by_seed()
    assert values["accuracy"] == {0: 0.7, 1: 0.7}
    assert values["recall_at_1"] == {0: 0.5, 1: 0.75}
    # A pairwise loss has no accuracy.
    assert "accuracy" not in replace(results[1], history={0: [{"loss": 1}]}).values_by_seed()
