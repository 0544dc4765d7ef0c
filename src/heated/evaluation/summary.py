"""Means over seeds with their confidence intervals."""

from collections.abc import Mapping
from math import sqrt
from typing import Any

import numpy as np
from scipy.special import stdtrit

from heated.evaluation.clustering import CLUSTERING


def mean_with_interval(values: Mapping[int, float]) -> dict[str, Any]:
    """Compute mean, standard deviation (n - 1) and Student's 95 % confidence interval of the mean.

    Deviation and interval are None for a single seed.

    >>> mean_with_interval({0: 0.7, 1: 0.8, 2: 0.9})["interval"]  # 0.8 +- 4.303 * 0.1 / sqrt(3)
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


def summarize_seeds(
    values: Mapping[int, Mapping[str, float]], engine: str | None = None
) -> dict[str, dict[str, Any]]:
    """Summarize each metric over the seeds, in ascending order of seeds.

    `values` has metrics by seed and name. The k-means engine is added to the metrics that depend on
    it.
    """
    seeds, summary = sorted(values), {}
    for name in values[seeds[0]]:
        summary[name] = mean_with_interval({seed: values[seed][name] for seed in seeds})
        if engine is not None and (name in CLUSTERING or "kmeans" in name):
            summary[name]["engine"] = engine
    return summary
