"""Combine one effect over several data sets: a random-effects meta-analysis.

The effect in data set i is drawn from a distribution with mean mu and variance tau^2, and is
measured with n_i seeds. tau^2 is Paule and Mandel's estimate (1982), the interval of mu Hartung and
Knapp's (2001). The prediction interval is for another data set's effect (Higgins et al., 2009).

Weights use the variance over seeds pooled over the data sets. With each set's own, from five to
eight seeds, intervals covered 91 to 95 % in simulations, with the pooled one 94 to 97 %.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

LEVEL = 0.95


def combine(samples: Sequence[NDArray[np.float64]]) -> dict[str, Any] | None:
    """Estimate the mean effect over k data sets from their effects by seed, (n_i,), n_i > 1.

    Return `effect`, its 95 % `interval` and two-sided `p`, the 95 % `prediction` interval, and `k`.
    `tau` is the standard deviation between data sets, `i2` its share of the variance, and
    `p_heterogeneity` that of Cochran's Q. Return None if k < 3 or no sample varies.

    >>> summary = combine([np.array([0.01, 0.02]), np.array([0.03, 0.02]), np.array([0.01, 0.03])])
    >>> round(summary["effect"], 4), [round(bound, 4) for bound in summary["interval"]]
    (0.02, [0.0076, 0.0324])
    """
    k, sizes = len(samples), np.array([len(sample) for sample in samples])
    squares = sum(((sample - sample.mean()) ** 2).sum() for sample in samples)
    if k < 3 or not squares:
        return None
    from statsmodels.stats.meta_analysis import combine_effects  # imports pandas: two seconds

    means = np.array([sample.mean() for sample in samples])
    variances = squares / (sizes - 1).sum() / sizes
    result = combine_effects(means, variances, method_re="pm", use_t=True)
    mean, error = float(result.mean_effect_re), float(result.sd_eff_w_re_hksj)
    tau = float(np.sqrt(max(result.tau2, 0)))
    half = float(stats.t.isf((1 - LEVEL) / 2, k - 1)) * error
    reach = float(stats.t.isf((1 - LEVEL) / 2, k - 2)) * float(np.hypot(tau, error))
    return {
        "effect": mean,
        "interval": [mean - half, mean + half],
        "p": float(2 * stats.t.sf(abs(mean) / error, k - 1)),
        "prediction": [mean - reach, mean + reach],
        "tau": tau,
        "i2": max(0.0, float(result.i2)),
        "p_heterogeneity": float(stats.chi2.sf(result.q, k - 1)),
        "k": k,
    }
