"""Claims as tests on runs: each a comparison of methods, stated before, paired by seed.

A comparison is the sum of a metric over some methods less that over as many others, seed by seed.
Its interval is Student's t for paired differences: 95 %, two-sided. A claim *holds* when the
interval lies above what is claimed, *fails* when it lies below, and is *undecided* otherwise. A
claim of several comparisons holds when all of them do (the intersection-union test, which needs no
correction), and fails when one lies below at a 95 % that is shared among them (Bonferroni). So
without any effect either verdict comes in at most 2.5 % of all cases. That is of one claim: what is
left of either verdict among all claims on a data set, Holm's correction tells beside it.
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

LEVEL = 0.025  # one-sided: the share of false verdicts, of either kind, that is allowed
POWER = 0.8  # of the number of seeds that is said to decide
MOST_SEEDS = 10_000


def judged(
    claims: Mapping[str, Mapping[str, Any]], values: Values, dataset: str
) -> list[Judgement]:
    """What became of each claim on a data set, in their order.

    claims: by name, `says`, `origin` and the comparisons `all`. The judgement has those, and of the
    comparison that is farthest from holding `metric`, `a`, `b`, `effect`, `interval`, `n`, `p` and
    `seeds_needed` (None: at least two seeds; see `seeds_to_decide`); all of them are in `parts`.
    p is one-sided: how likely so much is if there is nothing. p_against is that of the opposite,
    by which the claim fails. p_adjusted and p_against_adjusted are both after Holm's correction for
    the claims that were tested on this data set. Where a method was not run the verdict is "not
    run", the methods that lack are in `missing`, and the numbers are None.
    """
    found = [
        {
            "claim": name,
            "says": claim["says"],
            "origin": claim["origin"],
            "dataset": dataset,
            **judgement(claim["all"], values),
        }
        for name, claim in claims.items()
    ]
    tested = [one for one in found if one["p"] is not None]
    for p in ("p", "p_against"):
        for one, adjusted in zip(tested, holm([one[p] for one in tested]), strict=True):
            one[f"{p}_adjusted"] = adjusted
    return found


def judgement(comparisons: Sequence[Comparison], values: Values) -> Judgement:
    """A claim's comparison that is farthest from holding, the verdict on all, and all of them."""
    missing = sorted({name for each in comparisons for name in absent(each, values)})
    if missing:
        first = comparisons[0] | {"effect": None, "interval": None, "n": 0, "p": None}
        parts = [named(first) | {"seeds_needed": None}]
    else:
        parts = [compared(each, values, len(comparisons)) for each in comparisons]
    worst = max(parts, key=lambda part: -1 if part["p"] is None else part["p"])
    chances = [part["p"] for part in parts]
    return {
        **worst,
        "p_against": against(chances),
        **dict.fromkeys(("p_adjusted", "p_against_adjusted")),
        "missing": missing,
        "parts": parts,
        "verdict": "not run" if missing else verdict(chances),
    }


def absent(comparison: Comparison, values: Values) -> Iterator[str]:
    """The methods of a comparison that have no values of its metric."""
    for method in (*comparison["more"], *comparison["less"]):
        if comparison["metric"] not in values.get(method, {}):
            yield method


def named(comparison: Comparison) -> Judgement:
    """A comparison with its sides in words: `a` is claimed to be more than `b` less the margin."""
    sides = {"a": comparison["more"], "b": comparison["less"]}
    rest = {key: value for key, value in comparison.items() if key not in ("more", "less")}
    return rest | {side: " + ".join(methods) for side, methods in sides.items()}


def compared(comparison: Comparison, values: Values, parts: int) -> Judgement:
    """A comparison, of so many of its claim, with its effect, interval, n, p, and the number of
    seeds that would decide."""
    return named(comparison) | paired(differences(comparison, values), comparison["margin"], parts)


def differences(comparison: Comparison, values: Values) -> NDArray[np.float64]:
    """(n,) of the seeds that all methods share, in rising order."""
    metric, more, less = (comparison[key] for key in ("metric", "more", "less"))
    columns = [values[method][metric] for method in (*more, *less)]
    seeds = sorted(set.intersection(*(set(column) for column in columns)))
    table = np.array([[column[seed] for seed in seeds] for column in columns], dtype=np.float64)
    return table[: len(more)].sum(axis=0) - table[len(more) :].sum(axis=0)


def paired(differences: NDArray[np.float64], margin: float = 0.0, parts: int = 1) -> Judgement:
    """Mean of (n,) differences, its 95 % interval by Student's t, n, the one-sided p of its being
    above -margin, and how many seeds would decide, one of so many parts of a claim. With fewer than
    two there is only the mean.

    >>> found = paired(np.array([0.01, 0.02, 0.03]))
    >>> [round(bound, 4) for bound in found["interval"]], round(found["p"], 4)
    ([-0.0048, 0.0448], 0.0371)
    """
    n = len(differences)
    if n < 2:
        only = float(differences[0]) if n else None
        return {"effect": only, "interval": None, "n": n, "p": None, "seeds_needed": None}
    effect = float(differences.mean())
    std = float(differences.std(ddof=1))
    half = float(stdtrit(n - 1, 1 - LEVEL)) * std / sqrt(n)
    return {
        "effect": effect,
        "interval": [effect - half, effect + half],
        "n": n,
        "p": chance(effect + margin, std, n),
        "seeds_needed": seeds_to_decide(
            effect + margin, std, LEVEL if effect + margin > 0 else LEVEL / parts
        ),
    }


def chance(effect: float, std: float, n: int) -> float:
    """How likely a mean of n differences is at least this large when there is nothing."""
    if std == 0:
        return 0.5 if effect == 0 else float(effect < 0)
    return float(stdtr(n - 1, -effect / std * sqrt(n)))


def verdict(chances: Sequence[float | None]) -> str:
    """Of a claim whose comparisons have these one-sided p (None: too few seeds)."""
    if None not in chances and max(p for p in chances if p is not None) < LEVEL:
        return "holds"
    opposite = against(chances)
    return "fails" if opposite is not None and opposite < LEVEL else "undecided"


def against(chances: Sequence[float | None]) -> float | None:
    """The one-sided p of one of these comparisons lying below, by Bonferroni; None where none has
    the seeds for it.

    >>> against([0.5, 0.875]), against([0.25]), against([None])
    (0.25, 0.75, None)
    """
    known = [p for p in chances if p is not None]
    return min(1.0, len(chances) * (1 - max(known))) if known else None


def seeds_to_decide(effect: float, std: float, level: float = LEVEL) -> int | None:
    """The fewest seeds with which the interval would leave out nothing with a probability of 80 %,
    if effect and standard deviation are those seen; None beyond 10,000. level: one-sided.

    >>> seeds_to_decide(1.0, 1.0), seeds_to_decide(-0.5, 1.0), seeds_to_decide(0.0, 1.0)
    (10, 34, None)
    """
    low, high = 1, 2
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
    """How likely n differences of this mean and deviation have an interval on the mean's side."""
    size = abs(effect) / std if std else (inf if effect else 0.0)
    if size in (0.0, inf):
        return float(size > 0)
    missed = float(nctdtr(n - 1, size * sqrt(n), stdtrit(n - 1, 1 - level)))
    return 1.0 if isnan(missed) else 1 - missed  # SciPy's NaN: too far out to miss


def holm(chances: Sequence[float]) -> list[float]:
    """Each p as it is after Holm's step-down correction for all of them (1979).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted, highest = [0.0] * len(chances), 0.0
    for rank, index in enumerate(np.argsort(chances, kind="stable")):
        highest = max(highest, min(1.0, (len(chances) - rank) * chances[index]))
        adjusted[index] = highest
    return adjusted
