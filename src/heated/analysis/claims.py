"""Claims as tests on repeated trainings: comparisons of methods, paired by seed.

A comparison is the mean of a metric over some methods minus the mean over as many others, seed by
seed. Of the 2 x 2 of heat and drop, {hbn, bn-heat} minus {bn, bn-drop} is the main effect of heat,
and {hbn, bn} minus {bn-heat, bn-drop} the interaction. Its interval is Student's t for paired
differences: 95 %, two-sided.

Verdicts, from at least five seeds whose differences are not all equal:

- "no relevant difference": the two one-sided tests at 5 % (TOST; Schuirmann, 1987) show that the
  effect lies within +- the smallest effect of interest; only of claims without a margin
- "supported": the 95 % interval lies above -margin
- "contradicted": the 95 % interval lies below -margin
- "undecided": none of these
- "no verdict": fewer seeds, or no spread; "not run": a method or a metric is missing

A claim of several comparisons is supported, or of no relevant difference, when all of them are (the
intersection-union test, which needs no correction). It is contradicted when one of them is at a
level that is divided by their number (Bonferroni). Each verdict is given before and after Holm's
correction for the claims of the same status, confirmatory or exploratory, on the data set.
"""

from collections.abc import Iterator, Mapping, Sequence
from math import inf, isnan, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import nctdtr, stdtr, stdtrit

Values = Mapping[str, Mapping[str, Mapping[int, float]]]  # method, metric, seed
Comparison = dict[str, Any]  # metric, more, less, margin
Judgement = dict[str, Any]

LEVEL = 0.025  # of each direction of the difference: one-sided
EQUIVALENCE_LEVEL = 0.05  # of each of the two one-sided tests
POWER = 0.8  # of the number of seeds that is said to decide
LEAST_SEEDS = 5  # for a verdict
MOST_SEEDS = 10_000
NO_SPREAD = 1e-9  # of shares: equal but for rounding
TESTS = ("p", "p_against", "p_equivalent")


def judged(
    claims: Mapping[str, Mapping[str, Any]], values: Values, dataset: str
) -> list[Judgement]:
    """Judge every claim on a data set.

    Args:
        claims: By name: `says`, `origin`, `status`, `stated`, `first_seed`, `smallest_effect` and
            the comparisons `all`. A confirmatory claim is tested by seeds from `first_seed` on;
            where earlier ones were used, too, its status is exploratory.
        values: By method, metric and seed.
        dataset: The data set's name.

    Returns:
        For each claim those entries, `verdict` and `verdict_adjusted` (after Holm: the same or
        "undecided", since a correction finds nothing new), and of the
        comparison farthest from supporting the claim `metric`, `a`, `b`, `effect`, `interval`, `n`,
        `std` and `seeds_needed` (see `seeds_to_decide`). `parts` has all comparisons, `missing` the
        methods without values. `p`, `p_against` and `p_equivalent` are the one-sided p of the
        claim, of its opposite and of equivalence, each also with `_adjusted`; None where there is
        no verdict, and of equivalence where a comparison has a margin.
    """
    found = [
        {key: value for key, value in claim.items() if key != "all"}
        | {"claim": name, "dataset": dataset, "status": status(claim, values)}
        | judgement(claim["all"], values, claim["smallest_effect"])
        for name, claim in claims.items()
    ]
    for family in ("confirmatory", "exploratory"):
        for p in TESTS:
            tested = [one for one in found if one["status"] == family and one[p] is not None]
            for one, adjusted in zip(tested, holm([one[p] for one in tested]), strict=True):
                one[f"{p}_adjusted"] = adjusted
    for one in found:
        again = verdict(*(one[f"{p}_adjusted"] for p in TESTS))
        decided = one["p"] is not None and again != one["verdict"]
        one["verdict_adjusted"] = "undecided" if decided else one["verdict"]
    return found


def status(claim: Mapping[str, Any], values: Values) -> str:
    """Confirmatory only if no seed that was used before the claim was stated tests it."""
    used = {
        seed
        for each in claim["all"]
        if not any(absent(each, values))
        for seed in shared_seeds(each, values)
    }
    early = claim["status"] == "confirmatory" and min(used, default=inf) < claim["first_seed"]
    return "exploratory" if early else str(claim["status"])


def judgement(comparisons: Sequence[Comparison], values: Values, smallest: float) -> Judgement:
    """Judge one claim before the correction for several claims."""
    missing = sorted({name for each in comparisons for name in absent(each, values)})
    if missing:
        parts = [named(comparisons[0]) | paired(np.empty(0))]
    else:
        parts = [
            named(each) | paired(differences(each, values), each["margin"], smallest)
            for each in comparisons
        ]
    worst = max(parts, key=lambda part: inf if part["p"] is None else part["p"])
    tests: dict[str, float | None] = dict.fromkeys(TESTS)
    if all(part["p"] is not None for part in parts):
        tests["p"] = worst["p"]
        tests["p_against"] = min(1.0, len(parts) * (1 - worst["p"]))
        if all(part["p_equivalent"] is not None for part in parts):
            tests["p_equivalent"] = max(part["p_equivalent"] for part in parts)
    return {
        **worst,
        **tests,
        **dict.fromkeys(f"{p}_adjusted" for p in TESTS),
        "missing": missing,
        "parts": parts,
        "verdict": "not run" if missing else verdict(*tests.values()),
    }


def absent(comparison: Comparison, values: Values) -> Iterator[str]:
    """The methods of a comparison that have no values of its metric."""
    for method in (*comparison["more"], *comparison["less"]):
        if comparison["metric"] not in values.get(method, {}):
            yield method


def named(comparison: Comparison) -> Judgement:
    """A comparison whose sides are text: `a` is claimed to be above `b` minus the margin."""
    sides = {"a": comparison["more"], "b": comparison["less"]}
    rest = {key: value for key, value in comparison.items() if key not in ("more", "less")}
    return rest | {side: " + ".join(methods) for side, methods in sides.items()}


def shared_seeds(comparison: Comparison, values: Values) -> list[int]:
    """The seeds that all methods of a comparison have, in rising order."""
    methods = (*comparison["more"], *comparison["less"])
    return sorted(set.intersection(*(set(values[each][comparison["metric"]]) for each in methods)))


def differences(comparison: Comparison, values: Values) -> NDArray[np.float64]:
    """(n,) differences of means, of the seeds that all methods share, in rising order."""
    seeds = shared_seeds(comparison, values)
    more, less = (
        np.array(
            [[values[method][comparison["metric"]][seed] for seed in seeds] for method in methods],
            dtype=np.float64,
        )
        for methods in (comparison["more"], comparison["less"])
    )
    return more.mean(axis=0) - less.mean(axis=0)


def paired(
    differences: NDArray[np.float64], margin: float = 0.0, smallest: float = 0.005
) -> Judgement:
    """Estimate and test the mean of paired differences.

    Args:
        differences: (n,).
        margin: The claim is that the mean is above -margin.
        smallest: The smallest effect of interest, for equivalence and the number of seeds.

    Returns:
        `effect`, its 95 % `interval` and `std` (None of fewer than two differences), `n`, and of
        at least five that are not all equal the one-sided `p` of the claim, `p_equivalent` (None
        with a margin) and `seeds_needed`.

    >>> found = paired(np.array([0.01, 0.02, 0.03, 0.02, 0.02]))
    >>> [round(bound, 4) for bound in found["interval"]], round(found["p"], 4)
    ([0.0112, 0.0288], 0.0016)
    """
    n = len(differences)
    found: Judgement = {"effect": float(differences.mean()) if n else None, "n": n}
    found |= dict.fromkeys(("interval", "std", "p", "p_equivalent", "seeds_needed"))
    if n < 2:
        return found
    effect, std = float(differences.mean()), float(differences.std(ddof=1))
    half = float(stdtrit(n - 1, 1 - LEVEL)) * std / sqrt(n)
    found |= {"interval": [effect - half, effect + half], "std": std}
    if n < LEAST_SEEDS or std < NO_SPREAD:
        return found
    found["p"] = chance(effect + margin, std, n)
    found["seeds_needed"] = seeds_to_decide(margin or smallest, std)
    if not margin:
        bounds = (chance(effect + smallest, std, n), chance(smallest - effect, std, n))
        found["p_equivalent"] = max(bounds)
    return found


def chance(effect: float, std: float, n: int) -> float:
    """The one-sided p of a mean of n differences at least this large, if the true mean is 0."""
    return float(stdtr(n - 1, -effect / std * sqrt(n)))


def verdict(p: float | None, p_against: float | None, p_equivalent: float | None) -> str:
    """The verdict that these one-sided p give; None: not tested."""
    if p is None or p_against is None:
        return "no verdict"
    if p_equivalent is not None and p_equivalent < EQUIVALENCE_LEVEL:
        return "no relevant difference"
    if p < LEVEL:
        return "supported"
    return "contradicted" if p_against < LEVEL else "undecided"


def seeds_to_decide(effect: float, std: float, level: float = LEVEL) -> int | None:
    """The fewest seeds that would detect an effect with a probability of 80 %.

    Args:
        effect: The true effect: the smallest one of interest, not the one seen.
        std: Standard deviation of the paired differences.
        level: One-sided.

    Returns:
        At least five; None beyond 10,000.

    >>> seeds_to_decide(1.0, 1.0), seeds_to_decide(-0.5, 1.0), seeds_to_decide(0.0, 1.0)
    (10, 34, None)
    """
    low, high = LEAST_SEEDS - 1, LEAST_SEEDS
    while power(effect, std, high, level) < POWER:
        if high == MOST_SEEDS:
            return None
        low, high = high, min(2 * high, MOST_SEEDS)
    while high - low > 1:
        middle = (low + high) // 2
        reaches = power(effect, std, middle, level) >= POWER
        low, high = (low, middle) if reaches else (middle, high)
    return high


def power(effect: float, std: float, n: int, level: float = LEVEL) -> float:
    """The probability that n differences of this mean and deviation give a p below the level."""
    size = abs(effect) / std if std else (inf if effect else 0.0)
    if size in (0.0, inf):
        return float(size > 0)
    missed = float(nctdtr(n - 1, size * sqrt(n), stdtrit(n - 1, 1 - level)))
    return 1.0 if isnan(missed) else 1 - missed  # SciPy's NaN: too far out to miss


def holm(chances: Sequence[float]) -> list[float]:
    """Correct each p for all of them by Holm's step-down procedure (1979).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted, highest = [0.0] * len(chances), 0.0
    for rank, index in enumerate(np.argsort(chances, kind="stable")):
        highest = max(highest, min(1.0, (len(chances) - rank) * chances[index]))
        adjusted[index] = highest
    return adjusted
