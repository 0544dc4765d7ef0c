from dataclasses import replace
from pathlib import Path

import pytest
from reported import GRIDS, SECTION, chapter, comparison
from test_paper import made

from heated.analysis.claims import judged
from heated.reporting.results import Result
from heated.reporting.verdicts import SYMBOLS, counts, in_paper, remedy, verdict


def claim(*comparisons, says="It is so", origin="paper"):
    return {"it": {"says": says, "origin": origin, "all": list(comparisons)}}


def told(claims, values):
    """The first claim on runs of these values."""
    runs = [Result("digits", method, Path(), {}, {}, {}) for method in values]
    return verdict(judged(claims, values, "digits")[0], runs, SECTION, GRIDS)


def by_seed(**columns):
    return {name: {"recall_at_1": dict(enumerate(values))} for name, values in columns.items()}


ONE = claim(comparison(["hbn"], ["bn"]))


def test_each_verdict_has_a_symbol_of_its_own():
    assert len(set(SYMBOLS.values())) == len(SYMBOLS) == 4


def test_a_claim_that_holds_tells_effect_interval_n_and_both_p():
    found = told(ONE, by_seed(hbn=[0.72, 0.73, 0.74, 0.75], bn=[0.70, 0.70, 0.73, 0.73]))
    assert (found.verdict, found.symbol, found.notes) == ("holds", "✓", [])
    assert found.evidence == (
        "Recall@1 of hbn less that of bn: +2.00 points, 95 % interval +0.70 to +3.30; n = 4; "
        "p = 0.008, after Holm 0.008."
    )


def test_a_claim_that_fails_is_told_with_its_negative_effect():
    found = told(ONE, by_seed(hbn=[0.70, 0.70, 0.73, 0.73], bn=[0.72, 0.73, 0.74, 0.75]))
    assert (found.verdict, found.symbol) == ("fails", "✗")
    assert "−2.00 points, 95 % interval −3.30 to −0.70" in found.evidence
    assert found.evidence.endswith("p of the opposite = 0.008, after Holm 0.008.")
    assert found.notes == []


def test_an_undecided_claim_tells_how_many_seeds_would_decide():
    found = told(ONE, by_seed(hbn=[0.71, 0.70, 0.75], bn=[0.70, 0.72, 0.70]))
    assert (found.verdict, found.symbol) == ("undecided", "?")
    (note,) = found.notes
    assert note.startswith("About ")
    assert note.endswith(" seeds would decide, if effect and deviation are as seen (80 % power).")


def test_one_seed_is_too_few():
    found = told(ONE, by_seed(hbn=[0.71], bn=[0.70]))
    assert found.verdict == "undecided"
    assert found.notes == ["At least two seeds are needed."]
    assert "+1.00 points; n = 1." in found.evidence


def test_seeds_that_no_two_methods_share_are_told():
    values = {"hbn": {"recall_at_1": {0: 0.7}}, "bn": {"recall_at_1": {1: 0.7}}}
    assert "no seed in common; n = 0." in told(ONE, values).evidence


def test_no_effect_at_all_would_not_be_decided():
    found = told(ONE, by_seed(hbn=[0.7, 0.7], bn=[0.7, 0.7]))
    assert "not even 10,000 seeds" in found.notes[0]


LOW, HIGH = [0.70, 0.72, 0.73, 0.73], [0.72, 0.73, 0.74, 0.76]


@pytest.mark.parametrize(
    ("kind", "values"),
    [("holds", by_seed(hbn=HIGH, bn=LOW)), ("fails", by_seed(hbn=LOW, bn=HIGH))],
)
def test_a_verdict_that_stands_only_without_the_correction_says_so(kind, values):
    others = {
        str(index): {"says": "", "origin": "open", "all": [comparison(["bn"], ["bn"])]}
        for index in range(5)
    }
    first = told(ONE | others, values)
    assert first.verdict == kind
    assert first.notes == ["Does not survive the correction for the number of claims (Holm)."]
    assert told(ONE, values).notes == []


def test_a_claim_of_several_comparisons_shows_each():
    claims = claim(comparison(["a"], ["b"], 0.01), comparison(["b"], ["a"], 0.01))
    found = told(claims, by_seed(a=[0.70, 0.71], b=[0.70, 0.71]))
    assert len(found.parts) == 2
    assert all("claimed to be above −1.00" in part for part in found.parts)
    assert told(ONE, by_seed(hbn=[0.7, 0.8], bn=[0.7, 0.8])).parts == []


def test_a_claim_that_was_not_run_names_what_lacks_and_what_to_change():
    claims = claim(*(comparison(["bn"], [other]) for other in ("bn-4", "bn-8", "sm")))
    found = told(claims, by_seed(bn=[0.7, 0.7]))
    assert (found.verdict, found.symbol, found.evidence) == ("not run", "–", "")
    assert found.notes == [
        "Lacks bn-4, bn-8: add digits to studies.alphas.datasets.",
        "Lacks sm: add to run.methods.",
    ]


def test_a_metric_that_was_not_computed_is_not_taken_for_a_method(results):
    claims = claim({**comparison(["hbn"], ["bn"]), "metric": "recall_at_2"})
    found = told(claims, {r.method: r.values() for r in results})
    assert found.notes == [
        "Lacks bn, hbn: recall_at_2 is not among what datasets.digits.evaluation gives."
    ]


@pytest.mark.parametrize(
    ("dataset", "method", "expected"),
    [
        ("digits", "bn-4", "add digits to studies.alphas.datasets"),
        ("digits", "ln", "add to run.methods"),
        ("flat", "bn-4", "add to studies.planes.methods"),
    ],
)
def test_a_method_is_had_by_what_trains_it_on_the_data_set(dataset, method, expected):
    assert remedy(dataset, method, GRIDS) == expected


def test_the_papers_own_difference_stands_beside_where_both_runs_are_by_its_protocol(tmp_path):
    found = {}
    for method in ("hbn", "bn", "ls"):
        record, section = made("cub200", method)
        found[method] = Result("cub200", method, tmp_path, {}, {}, record)
    part = {"a": "hbn", "b": "bn", "metric": "recall_at_1"}
    assert in_paper(part, [*found.values()], section) == pytest.approx(0.5068 - 0.4727)
    assert in_paper({**part, "b": "ls"}, [*found.values()], section) is None
    summed = {**part, "a": "hbn + bn", "b": "bn + bn"}
    assert in_paper(summed, [*found.values()], section) == pytest.approx(0.5068 - 0.4727)
    departed = {**found["bn"].record, "params": {**found["bn"].record["params"], "epochs": 10}}
    other = [found["hbn"], replace(found["bn"], record=departed)]
    assert in_paper(part, other, section) is None


def test_the_claims_are_counted_by_verdict(results):
    assert counts(chapter(results).verdicts) == "0 hold, 0 fail, 1 undecided, 1 not run"
