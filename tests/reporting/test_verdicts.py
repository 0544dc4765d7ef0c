import re
from dataclasses import replace
from pathlib import Path

import pytest
from reported import GRIDS, SECTION, claim, comparison
from test_paper_results import record_of

from heated.analysis.claims import assess_claims
from heated.reporting.run_results import RunResult
from heated.reporting.verdicts import SYMBOLS, describe_claim, paper_difference

ONE = claim("It holds", comparison("hbn", "bn"))
LOW, HIGH = [0.70, 0.72, 0.73, 0.73, 0.74], [0.72, 0.73, 0.74, 0.76, 0.75]


def describe_first(values, *claims, dataset="digits"):
    """Describe the first claim on runs with these values, by method and metric or by method."""
    by_method = {
        method: each if isinstance(each, dict) else {"recall_at_1": dict(enumerate(each))}
        for method, each in values.items()
    }
    runs = [RunResult(dataset, method, Path(), {}, {}, {}) for method in by_method]
    named = {str(index): each for index, each in enumerate(claims)}
    return describe_claim(assess_claims(named, by_method, dataset)[0], runs, SECTION, GRIDS)


def test_each_verdict_has_its_symbol_effect_interval_and_p():
    assert len(set(SYMBOLS.values())) == len(SYMBOLS) == 6
    effects = {
        "✓ supported": "+1.60 points (95 % CI [+0.49, +2.71], n = 5); p = 0.008",
        "✗ contradicted": "−1.60 points (95 % CI [−2.71, −0.49], n = 5); p of the opposite = 0.008",
    }
    others = [claim("It holds", comparison("bn", "hbn"))] * 8
    for hbn, (verdict, effect) in zip((HIGH, LOW), effects.items(), strict=True):
        values = {"hbn": hbn, "bn": LOW if hbn is HIGH else HIGH}
        text = describe_first(values, ONE)
        assert (f"{text.symbol} {text.verdict}", text.notes) == (verdict, [])
        assert text.evidence == f"Recall@1, hbn − bn: {effect}, after Holm's correction 0.008."
        text = describe_first(values, ONE, *others)
        assert f"{text.symbol} {text.verdict}" == verdict
        assert text.notes == ["After Holm's correction: undecided."]


def test_a_difference_that_is_not_significant_is_called_so():
    text = describe_first({"hbn": [0.701, 0.719, 0.73, 0.73, 0.741], "bn": LOW}, ONE)
    assert (text.verdict, text.symbol) == ("no relevant difference", "≈")
    assert "no significant difference (+0.02 points, 95 % CI [−0.08, +0.12], n" in text.evidence
    assert "; p of a relevant difference < 0.001, after Holm's" in text.evidence
    text = describe_first({"hbn": [0.71, 0.70, 0.75, 0.70, 0.73], "bn": LOW}, ONE)
    assert (text.verdict, text.symbol) == ("undecided", "?")
    assert "hbn − bn: no significant difference (" in text.evidence
    needed = r"Detecting an effect of 0.50 points needs \d+ seeds \(80 % power at the observed .*"
    assert re.fullmatch(needed, *text.notes)


def test_too_few_seeds_or_no_variation_give_an_estimate_and_no_verdict():
    for count in (1, 6):
        text = describe_first({"hbn": [0.71] * count, "bn": [0.70] * count}, ONE)
        assert (text.verdict, text.symbol) == ("no verdict", "·")
        assert text.notes == ["A verdict needs at least 5 seeds with differences that vary."]
        assert "+1.00 points" in text.evidence
    text = describe_first({"hbn": {"recall_at_1": {0: 1}}, "bn": {"recall_at_1": {1: 1}}}, ONE)
    assert "no seed in common (n = 0)." in text.evidence


def test_a_claim_with_several_comparisons_shows_each():
    both = claim("Same", comparison("a", "b", 0.01), comparison("b", "a", 0.01))
    text = describe_first({"a": [0.70, 0.71], "b": [0.70, 0.71]}, both)
    assert len(text.parts) == 2
    assert all("claimed: above −1.00" in part for part in text.parts)
    assert describe_first({"hbn": [0.7, 0.8], "bn": [0.7, 0.8]}, ONE).parts == []


def test_a_claim_that_was_not_run_says_what_is_missing_and_what_to_change(results):
    best = claim("Best", *(comparison("bn", other) for other in ("bn-4", "bn-8", "sm")))
    text = describe_first({"bn": [0.7, 0.7]}, best)
    assert (text.verdict, text.symbol, text.evidence) == ("not run", "–", "")
    add = "add digits to studies.alphas.datasets"
    assert text.notes == [f"Missing bn-4, bn-8: {add}.", "Missing sm: add to run.methods."]
    text = describe_first({"bn": [0.7, 0.7]}, best, dataset="flat")
    assert text.notes == ["Missing bn-4, bn-8, sm: add to studies.embeddings_2d.methods."]
    metric = claim("So", comparison("hbn", "bn") | {"metric": "recall_at_2"})
    text = describe_first({r.method: r.values_by_seed() for r in results}, metric)
    reason = "datasets.digits.evaluation does not include recall_at_2"
    assert text.notes == [f"Missing bn, hbn: {reason}."]


def test_the_papers_difference_is_shown_if_all_runs_follow_its_protocol():
    records = {method: record_of("cub200", method)[0] for method in ("hbn", "bn", "ls")}
    section = record_of("cub200", "hbn")[1]
    runs = [RunResult("cub200", m, Path(), {}, {}, record) for m, record in records.items()]
    part, hbn, bn = {"a": "hbn", "b": "bn", "metric": "recall_at_1"}, 0.5068, 0.4727
    assert paper_difference(part, runs, section) == pytest.approx(hbn - bn)
    assert paper_difference({**part, "b": "ls"}, runs, section) is None
    means = {**part, "a": "hbn + bn", "b": "bn + bn"}
    assert paper_difference(means, runs, section) == pytest.approx((hbn - bn) / 2)
    params = {**records["bn"]["params"], "epochs": 10}
    shorter = replace(runs[1], record={**records["bn"], "params": params})
    assert paper_difference(part, [runs[0], shorter], section) is None
