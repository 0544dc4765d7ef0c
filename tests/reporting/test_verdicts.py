from dataclasses import replace
from pathlib import Path

import pytest
from reported import GRIDS, SECTION, STATED, chapter, comparison
from test_paper import made

from heated.analysis.claims import assess_claims
from heated.reporting.results import Result
from heated.reporting.verdicts import SYMBOLS, counts, in_paper, remedy, verdict


def claim(*comparisons, says="It is so", origin="paper"):
    return {"it": STATED | {"says": says, "origin": origin, "all": list(comparisons)}}


def told(claims, values):
    """The first claim on runs of these values."""
    runs = [Result("digits", method, Path(), {}, {}, {}) for method in values]
    return verdict(assess_claims(claims, values, "digits")[0], runs, SECTION, GRIDS)


def by_seed(**columns):
    return {name: {"recall_at_1": dict(enumerate(values))} for name, values in columns.items()}


ONE = claim(comparison(["hbn"], ["bn"]))
LOW, HIGH = [0.70, 0.72, 0.73, 0.73, 0.74], [0.72, 0.73, 0.74, 0.76, 0.75]


def test_each_verdict_has_a_symbol_of_its_own():
    assert len(set(SYMBOLS.values())) == len(SYMBOLS) == 6


def test_a_supported_claim_gives_effect_interval_n_and_both_p():
    found = told(ONE, by_seed(hbn=HIGH, bn=LOW))
    assert (found.verdict, found.symbol, found.notes) == ("supported", "✓", [])
    assert found.evidence == (
        "Recall@1, hbn − bn: +1.60 points, 95 % interval +0.49 to +2.71; n = 5; "
        "p = 0.008, after Holm 0.008."
    )


def test_a_contradicted_claim_gives_the_p_of_its_opposite():
    found = told(ONE, by_seed(hbn=LOW, bn=HIGH))
    assert (found.verdict, found.symbol, found.notes) == ("contradicted", "✗", [])
    assert "−1.60 points, 95 % interval −2.71 to −0.49" in found.evidence
    assert found.evidence.endswith("p of the opposite = 0.008, after Holm 0.008.")


def test_no_relevant_difference_gives_the_p_of_a_relevant_one():
    near = [value + each for value, each in zip(LOW, (0.001, -0.001, 0, 0, 0.001), strict=True)]
    found = told(ONE, by_seed(hbn=near, bn=LOW))
    assert (found.verdict, found.symbol) == ("no relevant difference", "≈")
    assert "; p of a relevant difference < 0.001, after Holm" in found.evidence


def test_an_undecided_claim_says_how_many_seeds_detect_the_smallest_effect():
    found = told(ONE, by_seed(hbn=[0.71, 0.70, 0.75, 0.70, 0.73], bn=LOW))
    assert (found.verdict, found.symbol) == ("undecided", "?")
    (note,) = found.notes
    assert note.startswith("To detect an effect of 0.50 points takes ")
    assert note.endswith(" seeds (80 % power, with the spread seen).")


def test_too_few_seeds_or_no_spread_give_an_estimate_and_no_verdict():
    for values in (by_seed(hbn=[0.71], bn=[0.70]), by_seed(hbn=[0.71] * 6, bn=[0.70] * 6)):
        found = told(ONE, values)
        assert (found.verdict, found.symbol) == ("no verdict", "·")
        assert found.notes == ["A verdict needs at least 5 seeds whose differences vary."]
        assert "+1.00 points" in found.evidence


def test_seeds_that_no_two_methods_share_are_told():
    values = {"hbn": {"recall_at_1": {0: 0.7}}, "bn": {"recall_at_1": {1: 0.7}}}
    assert "no seed in common; n = 0." in told(ONE, values).evidence


def test_a_verdict_that_does_not_survive_the_correction_says_what_it_is_after_it():
    others = {str(index): ONE["it"] | {"all": [comparison(["bn"], ["hbn"])]} for index in range(8)}
    for kind, values in (
        ("supported", by_seed(hbn=HIGH, bn=LOW)),
        ("contradicted", by_seed(hbn=LOW, bn=HIGH)),
    ):
        first = told(ONE | others, values)
        assert (first.verdict, told(ONE, values).notes) == (kind, [])
        assert first.notes == ["After Holm's correction: undecided."]


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
    means = {**part, "a": "hbn + bn", "b": "bn + bn"}
    assert in_paper(means, [*found.values()], section) == pytest.approx((0.5068 - 0.4727) / 2)
    departed = {**found["bn"].record, "params": {**found["bn"].record["params"], "epochs": 10}}
    other = [found["hbn"], replace(found["bn"], record=departed)]
    assert in_paper(part, other, section) is None


def test_the_claims_are_counted_by_verdict(results):
    assert counts(chapter(results).verdicts) == "2 claims: 1 no verdict, 1 not run"
