"""The summary over data sets: which recipes it has, by hand, and the sentences that quote it."""

import re

import numpy as np
import pytest
from conftest import ROOT
from scipy import stats

from heated.common.io import read_json
from heated.reporting.main_effects import (
    effect_rows,
    effect_samples,
    forest_plot,
    front_page,
    longest_trainings,
    summaries,
    summary_sentences,
)
from heated.reporting.tables import format_points

RELEASED = [read_json(path) for path in sorted((ROOT / "results").glob("*.json"))]


def make_document(dataset, epochs, images, effects):
    """A results file of bn and bn-heat, whose differences in MAP@R are `effects`."""
    values = {"bn": [0.0] * len(effects), "bn-heat": effects}
    methods = {
        name: {"map_at_r": {"seeds": {str(seed): x for seed, x in enumerate(each)}}}
        for name, each in values.items()
    }
    claim = {"claim": "bn-heat-map", "metric": "map_at_r", "a": "bn-heat", "b": "bn"}
    return {
        "dataset": dataset,
        "parameters": {"epochs": str(epochs)},
        "split": {"train": {"images": images}},
        "methods": {name: {} for name in methods},
        "studies": {"run": methods},
        "claims": [claim | {"missing": [], "n": len(effects)}],
    }


def test_the_mean_has_the_longest_training_of_each_set_of_images():
    documents = [
        make_document("short", 6, 100, [0.9, 0.9]),
        make_document("long", 18, 100, [0.01, 0.03]),
        make_document("b", 6, 200, [0.02, 0.04]),
        make_document("c", 6, 300, [0.03, 0.05]),
        make_document("one-seed", 6, 400, [0.9]),
    ]
    # a longer training without the methods does not count
    documents.append(make_document("longest", 99, 100, [0.9]))
    assert set(longest_trainings(documents, "bn-heat-map")) == {"long", "b", "c"}
    assert set(effect_samples(documents, "bn-heat-map")) == {"short", "long", "b", "c"}
    ((*names, found),) = summaries(documents)
    assert names == ["bn", "heat", "map"]
    means = [0.02, 0.03, 0.04]
    assert found["effect"] == pytest.approx(0.03)
    low, high = stats.t.interval(0.95, 2, np.mean(means), stats.sem(means))
    assert found["interval"] == pytest.approx([low, high], rel=1e-3)
    page = front_page(documents)
    first, second = page["sentences"].split(". ", 1)
    assert first.startswith(
        "With batch norm, lowering alpha changed MAP@R by +3.00 points (95 % CI ["
    )
    assert second == "The intervals that exclude 0: lower α, MAP@R."
    assert page["table"].count("\n") == 2
    svg = forest_plot(documents)
    assert svg.count("<svg") == 1
    # Each set's effect, and their mean, has its numbers at the pointer.
    titles = re.findall(r"<g><title>([^<]*)</title>", svg)
    assert [title.partition(":")[0] for title in titles] == ["short", "long", "b", "c", "mean"]
    low, high = (f"{100 * x:+.2f}" for x in stats.t.interval(0.95, 1, 0.02, 0.01))
    assert f"long: +2.00 points, 95 % CI [{low.replace('-', '−')}, {high}]" in titles


def test_fewer_than_three_sets_of_images_have_no_front_page():
    assert front_page([make_document("a", 6, 100, [0.01, 0.03])])["sentences"] == ""


def test_a_report_opens_with_each_data_sets_own_effect_and_its_uncertainty():
    few, many = [0.01, 0.03], [0.01, 0.02, 0.03, 0.02, 0.02]
    low, high = (f"{100 * x:+.2f}" for x in stats.t.interval(0.95, 4, 0.02, stats.sem(many)))
    row = ["a", "batch norm", "lower α", "MAP@R", "+2.00", f"[{low}, {high}]", "5"]
    documents = [make_document("a", 6, 100, many)]
    assert effect_rows(documents) == [row]
    first, second, third = summary_sentences(documents)
    assert first == "This report compares 2 ways to train an embedding on a."
    assert f"MAP@R by +2.00 points (95 % CI [{low}, {high}], a)" in second
    assert third.startswith("The interval excludes 0 for MAP@R on a.")
    unclear = summary_sentences([make_document("a", 6, 100, [-x for x in few] * 2 + few * 3)])
    assert unclear[2].startswith("The interval includes 0")
    contrary = summary_sentences([make_document("a", 6, 100, [-x for x in many])])
    assert contrary[2].startswith("The interval excludes 0 for MAP@R on a.")
    assert "2 seeds are too few" in summary_sentences([make_document("a", 6, 100, few)])[2]
    equal = [make_document("a", 6, 100, [0.0] * 6)]
    assert "by 0.00 points (95 % CI none: equal differences, a)" in summary_sentences(equal)[1]
    untested = make_document("a", 6, 100, [0.9])
    assert "were not all trained" in summary_sentences([untested])[1]


def test_readme_quotes_the_summary_of_the_released_results():
    (found,) = (f for *names, f in summaries(RELEASED) if names == ["bn", "heat", "map"])
    readme = re.sub(r"\s+", " ", (ROOT / "README.md").read_text(encoding="utf-8"))
    low, high = map(format_points, found["interval"])
    effect = format_points(found["effect"])
    assert f"MAP@R by {effect} points ({low} to {high}, random effects)" in readme
    low, high = map(format_points, found["prediction"])
    assert f"effect on MAP@R is expected within {low} to {high}" in readme
    (recall,) = (f for *names, f in summaries(RELEASED) if names == ["bn", "heat", "recall"])
    effect, low, high = map(format_points, (recall["effect"], *recall["interval"]))
    assert f"and Recall@1 by {effect} ({low} to {high})" in readme
    assert found["k"] == 4
    assert "the four sets of images" in readme


def test_results_md_opens_with_the_summary():
    head = (ROOT / "RESULTS.md").read_text(encoding="utf-8").partition("\n## ")[0]
    page = front_page(RELEASED)
    assert page["sentences"] in head
    assert page["table"] in head
    figure = (ROOT / "results" / "forest.svg").read_text(encoding="utf-8")
    assert figure == forest_plot(RELEASED)
