"""The random-effects summary: by hand, and its coverage on simulated data sets."""

import numpy as np
import pytest
from scipy import stats

from heated.analysis.random_effects import combine


def samples(means, deviation=0.01, seeds=5):
    """Seeds whose means and standard deviation are exactly those."""
    spread = np.linspace(-1, 1, seeds)
    spread *= deviation / spread.std(ddof=1)
    return [mean + spread for mean in means]


def test_equal_sizes_give_students_interval_of_the_effects():
    effects = [0.01, 0.02, 0.04, 0.03, 0.05]
    found = combine(samples(effects))
    assert found["effect"] == pytest.approx(np.mean(effects))
    expected = stats.t.interval(0.95, 4, np.mean(effects), stats.sem(effects))
    assert found["interval"] == pytest.approx(list(expected), rel=1e-4)
    assert found["p"] == pytest.approx(stats.ttest_1samp(effects, 0).pvalue, rel=1e-3)
    between = np.var(effects, ddof=1) - 0.01**2 / 5
    assert found["tau"] == pytest.approx(np.sqrt(between), rel=1e-3)
    (low, high), (lowest, highest) = found["interval"], found["prediction"]
    assert lowest < low < high < highest


def test_heterogeneity_is_cochrans():
    given = [*samples([0.0], seeds=3), *samples([0.01, 0.05], seeds=8)]
    variances = 0.01**2 / np.array([3, 8, 8])
    means, weights = np.array([0.0, 0.01, 0.05]), 1 / variances
    q = (weights * (means - np.average(means, weights=weights)) ** 2).sum()
    found = combine(given)
    assert found["i2"] == pytest.approx(1 - 2 / q)
    assert found["p_heterogeneity"] == pytest.approx(stats.chi2.sf(q, 2))


def test_more_seeds_weigh_more():
    given = [*samples([0.0], seeds=2), *samples([0.001, 0.002], deviation=0.05, seeds=50)]
    assert 0.001 < combine(given)["effect"] < 0.0015


def test_too_little_gives_no_summary():
    assert combine(samples([0.01, 0.02])) is None
    assert combine([np.full(5, 0.01)] * 3) is None


def test_the_interval_covers_at_its_level(subtests):
    """Deviations differ twofold between data sets."""
    trials, mu = 1500, 0.01
    for sizes in ((8, 8, 8, 8), (5, 5, 5, 5, 5)):
        for tau in (0.0, 0.005, 0.02):
            with subtests.test(sizes=sizes, tau=tau):
                generator, k = np.random.default_rng(0), len(sizes)
                deviations = np.linspace(0.01, 0.02, k)
                covered = 0
                for _ in range(trials):
                    truth = mu + tau * generator.standard_normal(k)
                    drawn = [
                        true + deviation * generator.standard_normal(size)
                        for true, deviation, size in zip(truth, deviations, sizes, strict=True)
                    ]
                    low, high = combine(drawn)["interval"]
                    covered += low < mu < high
                assert 0.93 <= covered / trials <= 0.97
