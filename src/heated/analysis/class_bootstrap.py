"""How an effect depends on the test classes: bootstrap intervals over them.

The interval over seeds says how an effect would vary with other trainings, on the same classes.
This one resamples the classes, with the trainings as they are: a class's queries stay together, and
the gallery stays as it is.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.stats import bootstrap

from heated.common.class_scores import ClassScores, Numbers
from heated.common.errors import InputError

RESAMPLES = 9999
BATCH = 256  # resamples at once


def class_effects(
    comparison: Mapping[str, Any], scores: Mapping[str, ClassScores]
) -> tuple[Numbers, Numbers, Numbers]:
    """Return each class's label, number of queries, and effect as a mean over the shared seeds.

    All are (C,). `comparison` has `metric`, and `higher` and `lower`, the methods of both sides.
    `scores` are by method. Raises InputError if methods were tested on other classes.
    """
    sides: list[list[str]] = [comparison["higher"], comparison["lower"]]
    methods = [scores[method] for side in sides for method in side]
    seeds = sorted(set.intersection(*(set(each) for each in methods)))
    tested = [each[seeds[0]] for each in methods]
    for column in ("label", "queries"):
        if not all(np.array_equal(each[column], tested[0][column]) for each in tested):
            raise InputError(
                f"class scores: got other test classes for one of {', '.join(sum(sides, []))}, "
                "expected the same. Run `dvc repro`."
            )
    higher, lower = (
        np.mean([[scores[m][s][comparison["metric"]] for s in seeds] for m in side], axis=(0, 1))
        for side in sides
    )
    return tested[0]["label"], tested[0]["queries"], higher - lower


def bootstrap_interval(effects: Numbers, queries: Numbers) -> list[float] | None:
    """Compute the 95 % percentile interval of the mean effect over resampled classes.

    The mean is weighted by the number of queries, as the metric is. None for fewer than two
    classes. The same arguments always give the same interval.

    >>> bootstrap_interval(np.array([0.0, 0.1, 0.2, 0.3]), np.ones(4))
    [0.05, 0.25]
    """
    if len(effects) < 2:
        return None

    def mean(effects: Numbers, queries: Numbers, axis: int) -> Any:
        return (effects * queries).sum(axis=axis) / queries.sum(axis=axis)

    found = bootstrap(
        (effects, queries),
        mean,
        n_resamples=RESAMPLES,
        batch=BATCH,
        vectorized=True,
        paired=True,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return [float(each) for each in found.confidence_interval]
