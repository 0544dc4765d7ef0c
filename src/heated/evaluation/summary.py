"""Repeated runs as a mean with its interval."""

from collections.abc import Mapping
from math import sqrt
from typing import Any

import numpy as np
from scipy.special import stdtrit


def summary(values: Mapping[int, float]) -> dict[str, Any]:
    """Compute mean, standard deviation (n - 1), Student's 95 % interval of the mean, and n, with
    the value of each seed. With one seed, deviation and interval are null.

    >>> summary({0: 0.7, 1: 0.8, 2: 0.9})["interval"]  # 0.8 +- 4.303 * 0.1 / sqrt(3)
    [0.55158622882..., 1.04841377117...]
    """
    sample = np.array(list(values.values()), dtype=np.float64)
    n, mean = len(sample), float(sample.mean())
    std = float(sample.std(ddof=1)) if n > 1 else None
    half = float(stdtrit(n - 1, 0.975)) * std / sqrt(n) if std is not None else None
    return {
        "mean": mean,
        "std": std,
        "interval": [mean - half, mean + half] if half is not None else None,
        "n": n,
        "seeds": {str(seed): value for seed, value in values.items()},
    }


def summaries(values: Mapping[int, Mapping[str, float]]) -> dict[str, dict[str, Any]]:
    """`summary` of each metric, from each seed's metrics; seeds in rising order."""
    seeds = sorted(values)
    names = values[seeds[0]]
    return {name: summary({seed: values[seed][name] for seed in seeds}) for name in names}
