"""Test claims about methods on repeated trainings, paired by seed.

A comparison is the mean of a metric over some methods minus its mean over other methods, seed by
seed. In the 2 x 2 design of heat and drop, {hbn, bn-heat} minus {bn, bn-drop} is the main effect of
heat, and {hbn, bn} minus {bn-heat, bn-drop} the interaction. The interval of a comparison is
Student's two-sided 95 % confidence interval of paired differences.

A verdict needs at least five seeds whose differences are not all equal:

- "no relevant difference": two one-sided tests at 5 % (TOST; Schuirmann, 1987) show an effect
  within +- the smallest effect of interest. Only claims without a margin are tested for it.
- "supported": the 95 % interval is above -margin.
- "contradicted": the 95 % interval is below -margin.
- "undecided": none of these.
- "no verdict": fewer seeds or no spread. "not run": a method or a metric is missing.

A claim of several comparisons is supported, or of no relevant difference, if all of them are. This
intersection-union test needs no correction. The claim is contradicted if one comparison is at a
level divided by their number (Bonferroni). Each verdict is given before and after Holm's correction
for the claims of the same status (confirmatory or exploratory) on the data set.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from math import inf, isnan, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import nctdtr, stdtr, stdtrit

MetricValues = Mapping[str, Mapping[str, Mapping[int, float]]]  # by method, metric and seed
Comparison = dict[str, Any]  # metric, higher, lower, margin
ClaimResult = dict[str, Any]

SIGNIFICANCE_LEVEL = 0.025  # one-sided, of each direction
EQUIVALENCE_LEVEL = 0.05  # of each of the two one-sided tests
TARGET_POWER = 0.8  # of the required number of seeds
MIN_SEEDS = 5  # for a verdict
MIN_STD = 1e-9  # smaller spreads of metrics in [0, 1] are rounding errors
TESTS = ("p", "p_against", "p_equivalent")


def assess_claims(
    claims: Mapping[str, Mapping[str, Any]], values: MetricValues, dataset: str
) -> list[ClaimResult]:
    """Test every claim on one data set, with Holm's correction over claims of the same status.

    `claims` are by name, as in claims.yaml; metric `values` are in [0, 1]. Each result has the
    claim's entries except `all`. Effect, interval and `seeds_needed` are of the comparison that
    supports the claim least; `parts` lists all. `missing` lists the methods without values. `p`,
    `p_against` and `p_equivalent` are the one-sided p-values of the claim, of its opposite and of
    equivalence, None if not tested. `verdict_adjusted` is `verdict`, or "undecided" if Holm's
    method changes it.
    """
    results = [
        {key: value for key, value in claim.items() if key != "all"}
        | {"claim": name, "dataset": dataset}
        | assess_claim(claim, values)
        for name, claim in claims.items()
    ]
    for status in ("confirmatory", "exploratory"):
        for p in TESTS:
            tested = [one for one in results if one["status"] == status and one[p] is not None]
            for one, adjusted in zip(tested, adjust_by_holm([t[p] for t in tested]), strict=True):
                one[f"{p}_adjusted"] = adjusted
    for one in results:
        adjusted_verdict = choose_verdict(*(one[f"{p}_adjusted"] for p in TESTS))
        changed = one["p"] is not None and adjusted_verdict != one["verdict"]
        one["verdict_adjusted"] = "undecided" if changed else one["verdict"]
    return results


def assess_claim(claim: Mapping[str, Any], values: MetricValues) -> ClaimResult:
    """Test one claim, without the correction for several claims.

    A confirmatory claim is exploratory if seeds below its `first_seed` test it.
    """
    comparisons = claim["all"]
    seeds = [seed for each in comparisons for seed in shared_seeds(each, values)]
    is_late = claim["status"] == "confirmatory" and min(seeds, default=inf) >= claim["first_seed"]
    pairs = {(m, each["metric"]) for each in comparisons for m in each["higher"] + each["lower"]}
    missing = sorted({method for method, metric in pairs if metric not in values.get(method, {})})
    parts = []
    for each in comparisons[:1] if missing else comparisons:
        part = {key: value for key, value in each.items() if key not in ("higher", "lower")}
        part |= {"a": " + ".join(each["higher"]), "b": " + ".join(each["lower"])}
        sample = np.empty(0) if missing else paired_differences(each, values)
        parts.append(part | paired_t_test(sample, each["margin"], claim["smallest_effect"]))
    worst = max(parts, key=lambda part: inf if part["p"] is None else part["p"])
    tests: dict[str, float | None] = dict.fromkeys(TESTS)
    if all(part["p"] is not None for part in parts):
        tests["p"] = worst["p"]
        tests["p_against"] = min(1.0, len(parts) * (1 - worst["p"]))
        if all(part["p_equivalent"] is not None for part in parts):
            tests["p_equivalent"] = max(part["p_equivalent"] for part in parts)
    return {
        "status": "confirmatory" if is_late else "exploratory",
        **worst,
        **tests,
        **dict.fromkeys(f"{p}_adjusted" for p in TESTS),
        "missing": missing,
        "parts": parts,
        "verdict": "not run" if missing else choose_verdict(*tests.values()),
    }


def shared_seeds(comparison: Comparison, values: MetricValues) -> list[int]:
    """Return the seeds that all methods of a comparison have, in ascending order."""
    methods = (*comparison["higher"], *comparison["lower"])
    columns = (values.get(method, {}).get(comparison["metric"], {}) for method in methods)
    return sorted(set.intersection(*map(set, columns)))


def paired_differences(comparison: Comparison, values: MetricValues) -> NDArray[np.float64]:
    """Return (n,) differences of means over methods, one per shared seed in ascending order."""
    metric, seeds = comparison["metric"], shared_seeds(comparison, values)
    higher, lower = (
        np.array([[values[method][metric][seed] for seed in seeds] for method in comparison[side]])
        for side in ("higher", "lower")
    )
    return np.asarray(higher.mean(axis=0) - lower.mean(axis=0), dtype=np.float64)


def paired_t_test(
    differences: NDArray[np.float64], margin: float = 0.0, smallest_effect: float = 0.005
) -> ClaimResult:
    """Estimate the mean of paired differences (n,), and test that it is above -margin.

    Interval and std need two differences; p-values and `seeds_needed` need five that are not all
    equal. `p_equivalent` is None with a margin. What cannot be computed is None.

    >>> result = paired_t_test(np.array([0.01, 0.02, 0.03, 0.02, 0.02]))
    >>> [round(bound, 4) for bound in result["interval"]], round(result["p"], 4)
    ([0.0112, 0.0288], 0.0016)
    """
    n = len(differences)
    result: ClaimResult = {"effect": float(differences.mean()) if n else None, "n": n}
    result |= dict.fromkeys(("interval", "std", "p", "p_equivalent", "seeds_needed"))
    if n < 2:
        return result
    effect, std = result["effect"], float(differences.std(ddof=1))
    half = float(stdtrit(n - 1, 1 - SIGNIFICANCE_LEVEL)) * std / sqrt(n)
    result |= {"interval": [effect - half, effect + half], "std": std}
    if n < MIN_SEEDS or std < MIN_STD:
        return result
    bounds = (effect + (margin or smallest_effect), smallest_effect - effect)
    result["p"] = one_sided_p(effect + margin, std, n)
    result["seeds_needed"] = required_seeds(margin or smallest_effect, std)
    if not margin:
        result["p_equivalent"] = max(one_sided_p(bound, std, n) for bound in bounds)
    return result


def one_sided_p(mean: float, std: float, n: int) -> float:
    """Return the probability that n differences have at least this mean if the true mean is 0."""
    return float(stdtr(n - 1, -mean / std * sqrt(n)))


def choose_verdict(p: float | None, p_against: float | None, p_equivalent: float | None) -> str:
    """Return the verdict of one-sided p-values; None: not tested."""
    if p is None or p_against is None:
        return "no verdict"
    if p_equivalent is not None and p_equivalent < EQUIVALENCE_LEVEL:
        return "no relevant difference"
    if p < SIGNIFICANCE_LEVEL:
        return "supported"
    return "contradicted" if p_against < SIGNIFICANCE_LEVEL else "undecided"


def required_seeds(effect: float, std: float, level: float = SIGNIFICANCE_LEVEL) -> int | None:
    """Return the number of seeds that detects a true effect with 80 % power, None above 10,000.

    std is the standard deviation of the paired differences, level the one-sided significance level.

    >>> required_seeds(1.0, 1.0), required_seeds(-0.5, 1.0), required_seeds(0.0, 1.0)
    (10, 34, None)
    """
    candidates = range(MIN_SEEDS, 10_001)
    index = bisect_left(candidates, TARGET_POWER, key=lambda n: t_test_power(effect, std, n, level))
    return candidates[index] if index < len(candidates) else None


def t_test_power(effect: float, std: float, n: int, level: float = SIGNIFICANCE_LEVEL) -> float:
    """Return the probability that n paired differences give a p-value below the level."""
    size = abs(effect) / std if std else (inf if effect else 0.0)
    if size in (0.0, inf):
        return float(size > 0)
    type_2_error = float(nctdtr(n - 1, size * sqrt(n), stdtrit(n - 1, 1 - level)))
    return 1.0 if isnan(type_2_error) else 1 - type_2_error  # SciPy returns NaN for tiny errors


def adjust_by_holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values by Holm's step-down procedure (1979).

    >>> adjust_by_holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    p, order = np.array(p_values, dtype=np.float64), np.argsort(p_values, kind="stable")
    factors = np.arange(len(p), 0, -1)
    p[order] = np.maximum.accumulate(np.minimum(factors * p[order], 1))
    return p.tolist()
