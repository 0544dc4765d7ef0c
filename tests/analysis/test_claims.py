from itertools import product
from math import sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from heated.analysis.claims import (
    LEVEL,
    POWER,
    chance,
    differences,
    holm,
    judged,
    paired,
    power,
    seeds_to_decide,
    verdict,
)

RUNS = 4000  # of a simulation: its share of 0.95 has a standard error of 0.0034


def simulated(effect, n, *, seed=0, runs=RUNS):
    """(runs, n) differences of pairs that share most of their noise, as seeds do."""
    random = np.random.default_rng(seed)
    shared = random.normal(scale=3.0, size=(runs, n))
    a, b = (shared + random.normal(scale=1.0, size=(runs, n)) for _ in range(2))
    return a + effect - b


def comparison(more, less, *, metric="recall_at_1", margin=0.0):
    return {"metric": metric, "more": more, "less": less, "margin": margin}


def claim(*comparisons):
    return {"says": "It is so", "origin": "paper", "all": list(comparisons)}


def values(metric="recall_at_1", **columns):
    return {name: {metric: dict(enumerate(column))} for name, column in columns.items()}


def judge(given_claim, given_values):
    (one,) = judged({"it-is-so": given_claim}, given_values, "digits")
    return one


# --- the interval and the test ---------------------------------------------------------------


@pytest.mark.slow
def test_the_interval_covers_the_effect_in_95_of_100(subtests):
    for n, effect in product([2, 3, 8, 20], [0.0, 0.7]):
        with subtests.test(n=n, effect=effect):
            found = [paired(pairs)["interval"] for pairs in simulated(effect, n)]
            covered = np.mean([low <= effect <= high for low, high in found])
            assert 0.93 <= covered <= 0.97


@pytest.mark.parametrize("n", [2, 3, 8])
def test_without_an_effect_neither_verdict_comes_more_often_than_allowed(n):
    verdicts = [verdict([paired(pairs)["p"]]) for pairs in simulated(0.0, n)]
    for kind in ("holds", "fails"):
        assert verdicts.count(kind) / RUNS <= LEVEL + 3 * sqrt(LEVEL * (1 - LEVEL) / RUNS)


@pytest.mark.parametrize("parts", [2, 4])
def test_a_claim_of_several_parts_without_an_effect_has_no_more_false_verdicts(parts):
    chances = [
        [paired(pairs)["p"] for pairs in simulated(0.0, 5, seed=part)] for part in range(parts)
    ]
    verdicts = [verdict(each) for each in zip(*chances, strict=True)]
    for kind in ("holds", "fails"):
        assert verdicts.count(kind) / RUNS <= LEVEL + 3 * sqrt(LEVEL * (1 - LEVEL) / RUNS)


def test_sign_and_size_of_an_effect_are_recovered(subtests):
    for effect in [-2.0, -0.5, 0.5, 2.0]:
        with subtests.test(effect=effect):
            found = [paired(pairs) for pairs in simulated(effect, 8, runs=2000)]
            assert np.mean([one["effect"] for one in found]) == pytest.approx(effect, abs=0.05)
            wrong = "fails" if effect > 0 else "holds"
            assert sum(verdict([one["p"]]) == wrong for one in found) <= 0.005 * len(found)


def test_a_large_effect_is_found_and_pairing_is_what_finds_it():
    random = np.random.default_rng(0)
    shared = random.normal(scale=3.0, size=8)
    a, b = shared + 0.5 + random.normal(scale=0.1, size=8), shared
    assert judge(claim(comparison(["a"], ["b"])), values(a=a, b=b))["verdict"] == "holds"
    assert stats.ttest_ind(a, b).pvalue > 0.05


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=12), st.floats(0, 0.5))
def test_interval_and_p_are_those_of_scipys_paired_test(sample, margin):
    a = np.array(sample)
    if a.std() < 1e-6:
        return
    found = paired(a, margin)
    other = stats.ttest_1samp(a, -margin, alternative="greater")
    interval = stats.ttest_1samp(a, 0).confidence_interval(0.95)
    assert found["p"] == pytest.approx(other.pvalue, abs=1e-9)
    assert found["interval"] == pytest.approx([interval.low, interval.high], abs=1e-9)
    assert (verdict([found["p"]]) == "holds") == (found["interval"][0] > -margin)
    assert (verdict([found["p"]]) == "fails") == (found["interval"][1] < -margin)


def test_equal_differences_are_decided_by_their_sign_and_none_is_not():
    assert [chance(effect, 0.0, 3) for effect in (0.1, -0.1, 0.0)] == [0.0, 1.0, 0.5]
    assert paired(np.zeros(3))["interval"] == [0.0, 0.0]
    assert verdict([0.5]) == "undecided"


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_seeds_decide_nothing(n):
    found = paired(np.ones(n))
    assert found == {
        "effect": 1.0 if n else None,
        "interval": None,
        "n": n,
        "p": None,
        "seeds_needed": None,
    }
    assert verdict([None]) == verdict([0.001, None]) == "undecided"


# --- how many seeds would decide -------------------------------------------------------------


@pytest.mark.parametrize("effect", [0.4, 1.0, -1.0])
def test_the_number_of_seeds_decides_as_often_as_it_says(effect):
    needed = seeds_to_decide(effect, sqrt(2))
    side = "holds" if effect > 0 else "fails"
    for n, reaches in ((needed, True), (needed - 1, False)):
        verdicts = [verdict([paired(pairs)["p"]]) for pairs in simulated(effect, n)]
        error = 3 * sqrt(POWER * (1 - POWER) / RUNS)
        share = verdicts.count(side) / RUNS
        assert share >= POWER - error if reaches else share <= POWER + error


def missed(size, n, level):
    """How often n differences leave the interval over nothing: averaged over their deviation."""
    quantiles = (np.arange(4000) + 0.5) / 4000
    deviation = np.sqrt(stats.chi2.ppf(quantiles, n - 1) / (n - 1))
    bound = stats.t.ppf(1 - level, n - 1)
    return 1 - stats.norm.cdf(size * sqrt(n) - bound * deviation).mean()


@pytest.mark.parametrize("level", [LEVEL, LEVEL / 5])
def test_the_number_of_seeds_is_the_fewest_at_every_size_of_effect(level):
    for size in np.geomspace(0.05, 60, 200):
        n = seeds_to_decide(size, 1.0, level)
        assert 1 - missed(size, n, level) >= POWER - 0.002
        assert n == 2 or 1 - missed(size, n - 1, level) < POWER + 0.002


def test_a_claim_of_several_that_looks_to_fail_is_decided_by_their_shared_level():
    alone, of_five = (paired(np.array([0.3, -0.6, -0.8]), parts=parts) for parts in (1, 5))
    assert alone["seeds_needed"] < of_five["seeds_needed"]
    above = [paired(np.array([-0.3, 0.6, 0.8]), parts=parts) for parts in (1, 5)]
    assert above[0] == above[1]


def test_no_number_of_seeds_is_told_where_none_would_do():
    assert seeds_to_decide(0.0, 1.0) is None
    assert seeds_to_decide(1e-6, 1.0) is None
    assert seeds_to_decide(0.5, 0.0) == 2
    assert power(0.0, 0.0, 5) == 0


# --- what is compared ------------------------------------------------------------------------


def test_only_the_seeds_that_all_methods_share_are_compared():
    found = differences(
        comparison(["a"], ["b"]),
        {"a": {"recall_at_1": {3: 0.5, 1: 0.75, 2: 0.25}}, "b": {"recall_at_1": {1: 0.5, 3: 0.25}}},
    )
    assert found.tolist() == [0.25, 0.25]


def test_an_interaction_is_a_sum_less_a_sum():
    one = judge(
        claim(comparison(["both", "neither"], ["heat", "drop"])),
        values(both=[4, 5, 7], neither=[1, 1, 1], heat=[2, 2, 2], drop=[1, 2, 2]),
    )
    assert one["effect"] == pytest.approx((2 + 2 + 4) / 3)
    assert (one["a"], one["b"]) == ("both + neither", "heat + drop")


def test_what_is_less_where_it_was_claimed_to_be_more_fails():
    better, worse = [0.8, 0.82, 0.81], [0.7, 0.71, 0.72]
    assert judge(claim(comparison(["a"], ["b"])), values(a=better, b=worse))["verdict"] == "holds"
    assert judge(claim(comparison(["a"], ["b"])), values(a=worse, b=better))["verdict"] == "fails"


def test_likeness_holds_within_the_margin_fails_beyond_it_and_is_else_undecided():
    alike = claim(comparison(["a"], ["b"], margin=0.01), comparison(["b"], ["a"], margin=0.01))
    near, far, unsure = [0.001, -0.001, 0.0], [0.05, 0.051, 0.052], [0.0, 0.03, -0.03]
    for column, expected in ((near, "holds"), (far, "fails"), (unsure, "undecided")):
        assert judge(alike, values(a=column, b=[0.0] * 3))["verdict"] == expected


def test_of_several_comparisons_the_one_farthest_from_holding_is_shown():
    one = judge(
        claim(comparison(["a"], ["b"]), comparison(["a"], ["c"])),
        values(a=[0.5, 0.51, 0.52], b=[0.1, 0.1, 0.1], c=[0.49, 0.52, 0.5]),
    )
    assert (one["b"], one["verdict"]) == ("c", "undecided")
    assert [part["b"] for part in one["parts"]] == ["b", "c"]


def test_a_claim_without_its_runs_is_not_run_and_names_what_lacks():
    one = judge(claim(comparison(["a"], ["b"]), comparison(["c"], ["b"])), values(b=[1, 2, 3]))
    assert (one["verdict"], one["missing"]) == ("not run", ["a", "c"])
    assert one["effect"] is one["interval"] is one["p"] is one["p_adjusted"] is None
    assert one["n"] == 0


def test_a_claim_of_a_metric_that_was_not_computed_is_not_run():
    one = judge(claim(comparison(["a"], ["b"], metric="f1")), values(a=[1, 2], b=[1, 2]))
    assert (one["verdict"], one["missing"]) == ("not run", ["a", "b"])


def test_a_judgement_has_what_others_rely_on():
    one = judge(claim(comparison(["a"], ["b"])), values(a=[1, 2, 4], b=[0, 0, 0]))
    assert {"claim", "dataset", "metric", "a", "b", "effect", "interval", "n", "p_adjusted"} < set(
        one
    )
    assert (one["claim"], one["dataset"], one["metric"]) == ("it-is-so", "digits", "recall_at_1")


# --- several claims --------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holms_correction_is_by_the_book(chances):
    expected, highest = {}, 0.0
    for rank, index in enumerate(sorted(range(len(chances)), key=lambda i: chances[i])):
        highest = max(highest, min(1.0, chances[index] * (len(chances) - rank)))
        expected[index] = highest
    assert holm(chances) == pytest.approx([expected[i] for i in range(len(chances))])


def test_the_correction_counts_the_claims_that_were_tested():
    claims = {
        "one": claim(comparison(["a"], ["b"])),
        "two": claim(comparison(["b"], ["a"])),
        "none": claim(comparison(["a"], ["z"])),
    }
    one, two, none = judged(claims, values(a=[1, 2, 4], b=[0, 0, 0]), "digits")
    assert one["p_adjusted"] == pytest.approx(2 * one["p"])
    assert two["p_adjusted"] == pytest.approx(two["p"])
    assert none["p_adjusted"] is None


def test_a_claim_that_fails_is_corrected_by_the_p_of_its_opposite():
    claims = {
        "one": claim(comparison(["a"], ["b"])),
        "two": claim(comparison(["b"], ["a"]), comparison(["b"], ["b"])),
    }
    one, two = judged(claims, values(a=[1, 2, 4], b=[0, 0, 0]), "digits")
    assert two["p_against"] == pytest.approx(2 * one["p"])
    assert two["p_against_adjusted"] == pytest.approx(2 * two["p_against"])
    assert one["p_against_adjusted"] == pytest.approx(one["p_against"])
