from math import sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from heated.analysis.claims import (
    EQUIVALENCE_LEVEL,
    SIGNIFICANCE_LEVEL,
    TARGET_POWER,
    adjust_by_holm,
    assess_claims,
    choose_verdict,
    paired_differences,
    paired_t_test,
    required_seeds,
    t_test_power,
)

RUNS = 2000  # per simulation: its share of 0.95 has a standard error of 0.005
FIVE = [0.70, 0.71, 0.70, 0.72, 0.71]
NOISE = [0.000, 0.001, -0.001, 0.002, -0.002]


def simulate(effect, n, *, seed=0):
    """(RUNS, n) differences of pairs that share most of their noise, as seeds do."""
    random = np.random.default_rng(seed)
    shared = random.normal(scale=3.0, size=(RUNS, n))
    a, b = (shared + random.normal(scale=1.0, size=(RUNS, n)) for _ in range(2))
    return a + effect - b


def comparison(more, less, *, metric="recall_at_1", margin=0.0):
    return {"metric": metric, "higher": more, "lower": less, "margin": margin}


def claim(*comparisons, status="exploratory", smallest=0.005):
    return {
        "statement": "It is so",
        "origin": "paper",
        "status": status,
        "stated": None,
        "first_seed": 0,
        "smallest_effect": smallest,
        "all": list(comparisons),
    }


A_OVER_B = claim(comparison(["a"], ["b"]))
EQUAL = claim(comparison(["a"], ["b"], margin=0.01), comparison(["b"], ["a"], margin=0.01))


def values(first_seed=0, **columns):
    return {
        name: {"recall_at_1": dict(enumerate(column, first_seed))}
        for name, column in columns.items()
    }


def assess(given_claim, given_values):
    (one,) = assess_claims({"it-is-so": given_claim}, given_values, "digits")
    return one


def shifted(effect, noise=NOISE):
    """Five seeds whose mean difference from `FIVE` is the effect."""
    return [value + effect + each for value, each in zip(FIVE, noise, strict=True)]


def at_most(share, level):
    return share <= level + 3 * sqrt(level * (1 - level) / RUNS)


def verdict_of(differences, smallest_effect=0.005):
    """The verdict on one comparison."""
    found = paired_t_test(differences, smallest_effect=smallest_effect)
    return choose_verdict(found["p"], 1 - found["p"], found["p_equivalent"])


def test_error_rates_are_at_most_their_level(subtests):
    """Of the difference without an effect, and of equivalence at the edge of what is relevant."""
    for n in (5, 8, 12):
        with subtests.test(n=n):
            without = [verdict_of(each) for each in simulate(0.0, n)]
            for kind in ("supported", "contradicted"):
                assert at_most(without.count(kind) / RUNS, SIGNIFICANCE_LEVEL)
            for edge in (-3.0, 3.0):
                found = [verdict_of(each, smallest_effect=3.0) for each in simulate(edge, n)]
                share = found.count("no relevant difference") / RUNS
                assert at_most(share, EQUIVALENCE_LEVEL)
                assert share > EQUIVALENCE_LEVEL / 2  # the test is not void
    for parts in (2, 4):  # claims of several comparisons
        columns = [[paired_t_test(x)["p"] for x in simulate(0.0, 5, seed=i)] for i in range(parts)]
        worst = [max(each) for each in zip(*columns, strict=True)]
        verdicts = [choose_verdict(p, min(1.0, parts * (1 - p)), None) for p in worst]
        for kind in ("supported", "contradicted"):
            assert at_most(verdicts.count(kind) / RUNS, SIGNIFICANCE_LEVEL)


def test_an_effect_is_found_that_an_unpaired_test_misses():
    random = np.random.default_rng(0)
    shared = random.normal(scale=3.0, size=8)
    a, b = shared + 0.5 + random.normal(scale=0.1, size=8), shared
    assert assess(A_OVER_B, values(a=a, b=b))["verdict"] == "supported"
    assert stats.ttest_ind(a, b).pvalue > 0.05


@given(
    st.lists(st.floats(-1, 1), min_size=5, max_size=12), st.floats(0, 0.5), st.floats(0.001, 0.5)
)
def test_interval_and_p_are_those_of_scipys_paired_tests(sample, margin, smallest):
    a = np.array(sample)
    if a.std() < 1e-6:
        return
    found = paired_t_test(a, margin, smallest)
    interval = stats.ttest_1samp(a, 0).confidence_interval(0.95)
    assert found["interval"] == pytest.approx([interval.low, interval.high], abs=1e-9)
    expected = stats.ttest_1samp(a, -margin, alternative="greater").pvalue
    assert found["p"] == pytest.approx(expected, abs=1e-9)
    if margin:
        assert found["p_equivalent"] is None
        return
    above = stats.ttest_1samp(a, -smallest, alternative="greater").pvalue
    below = stats.ttest_1samp(a, smallest, alternative="less").pvalue
    assert found["p_equivalent"] == pytest.approx(max(above, below), abs=1e-9)
    low, high = stats.ttest_1samp(a, 0).confidence_interval(1 - 2 * EQUIVALENCE_LEVEL)
    within = -smallest < low and high < smallest
    assert (found["p_equivalent"] < EQUIVALENCE_LEVEL) == within


def test_fewer_than_five_seeds_or_no_spread_give_an_estimate_and_no_verdict():
    for column in ([0.8], [0.8, 0.9], [0.8, 0.9, 0.85, 0.9], [0.8] * 8):
        one = assess(A_OVER_B, values(a=column, b=[0.5] * len(column)))
        assert one["verdict"] == one["verdict_adjusted"] == "no verdict"
        assert one["effect"] == pytest.approx(np.mean(column) - 0.5)
        assert (one["interval"] is None) == (len(column) < 2)
        assert one["p"] is one["p_adjusted"] is one["seeds_needed"] is None


def test_each_verdict():
    wide = [0.02, -0.02, 0.01, -0.01, 0.0]
    unsure = [0.0, 0.03, -0.03, 0.02, -0.02]
    cases = {
        "supported": (shifted(0.02), shifted(0.001)),
        "contradicted": (shifted(-0.02), shifted(0.05)),
        "undecided": (shifted(0.002, wide), shifted(0.0, unsure)),
    }
    for expected, (column, within_margin) in cases.items():
        assert assess(A_OVER_B, values(a=column, b=FIVE))["verdict"] == expected
        one = assess(EQUAL, values(a=within_margin, b=FIVE))
        assert (one["verdict"], one["p_equivalent"]) == (expected, None)
    one = assess(A_OVER_B, values(a=shifted(0.001), b=FIVE))
    assert one["verdict"] == "no relevant difference"


def test_a_significant_effect_that_is_too_small_is_no_relevant_difference():
    column = shifted(0.002, [each / 10 for each in NOISE])
    one = assess(A_OVER_B, values(a=column, b=FIVE))
    assert one["interval"][0] > 0
    assert one["verdict"] == "no relevant difference"
    large = claim(comparison(["a"], ["b"]), smallest=0.001)
    assert assess(large, values(a=column, b=FIVE))["verdict"] == "supported"


def test_of_several_comparisons_the_one_that_supports_the_claim_least_decides():
    both = claim(comparison(["a"], ["b"]), comparison(["a"], ["c"]))
    one = assess(both, values(a=FIVE, b=[0.1, 0.1, 0.1, 0.1, 0.11], c=[0.69, 0.72, 0.7, 0.7, 0.7]))
    assert (one["b"], one["verdict"]) == ("c", "undecided")
    assert [part["b"] for part in one["parts"]] == ["b", "c"]
    near, far = shifted(0.001), shifted(-0.03)
    assert assess(both, values(a=FIVE, b=near, c=near))["verdict"] == "no relevant difference"
    assert assess(both, values(a=FIVE, b=near, c=far))["verdict"] != "no relevant difference"


def type_2_error(size, n, level):
    """The type II error of n differences, averaged over their standard deviation."""
    quantiles = (np.arange(4000) + 0.5) / 4000
    deviation = np.sqrt(stats.chi2.ppf(quantiles, n - 1) / (n - 1))
    bound = stats.t.ppf(1 - level, n - 1)
    return 1 - stats.norm.cdf(size * sqrt(n) - bound * deviation).mean()


@pytest.mark.parametrize("level", [SIGNIFICANCE_LEVEL, SIGNIFICANCE_LEVEL / 5])
def test_the_required_seeds_are_the_fewest_for_every_effect(level):
    for size in np.geomspace(0.05, 60, 200):
        n = required_seeds(size, 1.0, level)
        assert 1 - type_2_error(size, n, level) >= TARGET_POWER - 0.002
        assert n == 5 or 1 - type_2_error(size, n - 1, level) < TARGET_POWER + 0.002


def test_the_required_seeds_are_for_the_smallest_effect_of_interest():
    assert required_seeds(0.0, 1.0) is required_seeds(1e-6, 1.0) is None
    assert (required_seeds(0.5, 0.0), t_test_power(0.0, 0.0, 5)) == (5, 0)
    noise = np.array([0.01, -0.01, 0.02, -0.02, 0.0])
    needed = {paired_t_test(noise + effect)["seeds_needed"] for effect in (-0.3, 0.0, 0.001, 0.4)}
    assert needed == {required_seeds(0.005, float(noise.std(ddof=1)))}


def test_only_the_seeds_that_all_methods_share_are_compared():
    found = paired_differences(
        comparison(["a"], ["b"]),
        {"a": {"recall_at_1": {3: 0.5, 1: 0.75, 2: 0.25}}, "b": {"recall_at_1": {1: 0.5, 3: 0.25}}},
    )
    assert found.tolist() == [0.25, 0.25]


def test_main_effects_and_interaction_are_those_of_a_two_by_two_design():
    """With y = 2 heat + 3 drop + 4 heat drop, levels 0 and 1: effects are differences of means."""
    cells = {"neither": 0, "heat": 2, "drop": 3, "both": 9}
    columns = values(**{name: [each + seed for seed in range(5)] for name, each in cells.items()})
    expected = {("heat", "drop"): 4.0, ("drop", "heat"): 5.0, ("neither",): 2.0}
    for (first, *_), effect in expected.items():
        more = ["both", first]
        less = [name for name in cells if name not in more]
        found = paired_differences(comparison(more, less), columns)
        assert found == pytest.approx([effect] * 5)


def test_a_claim_without_its_runs_is_not_run_and_names_what_is_missing():
    one = assess(claim(comparison(["a"], ["b"]), comparison(["c"], ["b"])), values(b=[1, 2, 3]))
    assert (one["verdict"], one["missing"]) == ("not run", ["a", "c"])
    assert one["effect"] is one["interval"] is one["p"] is one["p_adjusted"] is None
    assert one["n"] == 0
    other = assess(claim(comparison(["a"], ["b"], metric="f1")), values(a=[1, 2], b=[1, 2]))
    assert (other["verdict"], other["missing"]) == ("not run", ["a", "b"])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holms_correction_equals_its_definition(p_values):
    expected, highest = {}, 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, p_values[index] * (len(p_values) - rank)))
        expected[index] = highest
    assert adjust_by_holm(p_values) == pytest.approx([expected[i] for i in range(len(p_values))])


def test_the_correction_counts_the_claims_of_one_status_that_were_tested():
    claims = {
        "one": A_OVER_B,
        "two": claim(comparison(["b"], ["a"])),
        "none": claim(comparison(["a"], ["z"])),
        "confirmatory": A_OVER_B | {"status": "confirmatory"},
    }
    one, two, none, confirmatory = assess_claims(claims, values(a=shifted(0.003), b=FIVE), "digits")
    for p in ("p", "p_against"):
        first, second = sorted((one, two), key=lambda each: each[p])
        assert first[f"{p}_adjusted"] == pytest.approx(2 * first[p])
        assert second[f"{p}_adjusted"] == pytest.approx(max(second[p], 2 * first[p]))
        assert none[f"{p}_adjusted"] is None
        assert confirmatory[f"{p}_adjusted"] == confirmatory[p] == one[p]


def test_seeds_from_before_a_claim_was_stated_explore_and_do_not_confirm():
    stated = A_OVER_B | {"status": "confirmatory", "first_seed": 100}
    early, late = (values(first, a=shifted(0.1), b=FIVE) for first in (0, 100))
    assert assess(stated, early)["status"] == "exploratory"
    assert assess(stated, late)["status"] == assess(stated, {})["status"] == "confirmatory"


def test_a_verdict_that_does_not_survive_the_correction_is_undecided_after_it():
    column = shifted(0.013, [0.01, -0.01, 0.005, -0.005, 0.0])
    several = {str(index): A_OVER_B for index in range(12)}
    first = assess_claims(several, values(a=column, b=FIVE), "digits")[0]
    assert (first["verdict"], first["verdict_adjusted"]) == ("supported", "undecided")
    assert assess(A_OVER_B, values(a=column, b=FIVE))["verdict_adjusted"] == "supported"
