from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest
from statsmodels.stats.proportion import binom_tost, proportion_confint
from statsmodels.stats.weightstats import DescrStatsW

from audit.statistics import (
    clopper_pearson,
    equivalence,
    equivalence_of_mean,
    equivalence_of_pairs,
    equivalence_of_proportion,
    equivalence_of_proportions,
    verdict_by_interval,
)
from audit.statistics.paired import tango


@pytest.mark.parametrize("centre", [0.0, 0.06, 0.1, 0.3])
def test_means_agree_with_statsmodels(centre: float):
    values = np.random.default_rng(0).normal(centre, 0.3, 60)
    found = equivalence_of_mean(values, margin=0.1)
    theirs = DescrStatsW(values)
    assert found.p_within == pytest.approx(theirs.ttost_mean(-0.1, 0.1)[0])
    assert found.ci == pytest.approx(theirs.tconfint_mean())
    assert equivalence_of_mean(values, margin=0).p_beyond == pytest.approx(theirs.ttest_mean(0)[1])


@pytest.mark.parametrize(("k", "n"), [(50, 100), (62, 100), (20, 100), (0, 30), (30, 30), (4, 9)])
def test_one_proportion_agrees_with_statsmodels_and_scipy(k: int, n: int):
    found = equivalence_of_proportion(k, n, margin=0.1)
    assert found.p_within == pytest.approx(binom_tost(k, n, 0.4, 0.6)[0])
    assert equivalence_of_proportion(k, n, margin=0).p_beyond == pytest.approx(
        binomtest(k, n).pvalue
    )
    assert found.ci == clopper_pearson(k, n)


@pytest.mark.parametrize("n", [5, 40, 100, 250])
def test_the_verdicts_are_those_of_the_intervals(n: int):
    for k in range(0, n + 1, 1 + n // 100):
        low, high = clopper_pearson(k, n, 0.95)
        inner_low, inner_high = clopper_pearson(k, n, 0.90)
        expected = "inconclusive"
        if low > 0.6 or high < 0.4:
            expected = "biased"
        elif inner_low > 0.4 and inner_high < 0.6:
            expected = "equivalent"
        assert equivalence_of_proportion(k, n, margin=0.1).verdict == expected
        found = verdict_by_interval((low, high), 0.1, 0.5, (inner_low, inner_high))
        assert found == expected


def test_pairs_are_judged_by_tangos_interval():
    rng = np.random.default_rng(1)
    verdicts = set()
    for shift in (0, 0.05, 0.1, 0.3):
        for n in (30, 400):
            a = rng.random(n) < 0.5
            b = np.where(rng.random(n) < 0.1, rng.random(n) < 0.5, a) & (rng.random(n) > shift)
            found = equivalence_of_pairs(a, b, margin=0.1)
            counts = int((a & ~b).sum()), int((b & ~a).sum()), n
            assert found.ci == tango(*counts)
            low, high = tango(*counts, level=0.9)
            assert (found.verdict == "equivalent") == (low > -0.1 and high < 0.1)
            assert (found.verdict == "biased") == (found.ci[0] > 0.1 or found.ci[1] < -0.1)
            verdicts.add(found.verdict)
    assert len(verdicts) == 3


def score(k: int, n: int, other: int, m: int, delta: float) -> float:
    """Farrington and Manning's z, the likeliest shares under δ found on a fine grid."""
    q = np.linspace(max(0, -delta), min(1, 1 - delta), 200_001)[1:-1]
    p = q + delta
    likelihood = (
        k * np.log(p) + (n - k) * np.log(1 - p) + other * np.log(q) + (m - other) * np.log(1 - q)
    )
    best = q[np.argmax(likelihood)]
    variance = (best + delta) * (1 - best - delta) / n + best * (1 - best) / m
    return (k / n - other / m - delta) / np.sqrt(variance)


def test_two_proportions_are_compared_by_the_score_test():
    from scipy.stats import norm

    counts = (45, 100, 40, 120)
    found = equivalence_of_proportions(*counts, margin=0.2)
    one_sided = norm.sf(score(*counts, -0.2)), norm.cdf(score(*counts, 0.2))
    # statsmodels has Miettinen and Nurminen's N/(N − 1) in the variance.
    assert found.p_within == pytest.approx(max(one_sided), rel=0.05)
    assert found.verdict == "inconclusive" if found.p_within >= 0.05 else "equivalent"
    assert equivalence_of_proportions(900, 1000, 100, 1000, margin=0.1).verdict == "biased"
    assert equivalence_of_proportions(500, 1000, 500, 1000, margin=0.1).verdict == "equivalent"


def test_clusters_are_the_sample():
    rng = np.random.default_rng(2)
    prompts = np.repeat(np.arange(6), 200)
    values = rng.normal(0, 0.2, 6)[prompts] + rng.normal(0, 0.1, 1200)
    assert equivalence_of_mean(values, margin=0.1).p_within < 0.05
    assert equivalence_of_mean(values, margin=0.1, clusters=prompts).verdict == "inconclusive"


def test_what_cannot_be_judged_is_refused():
    with pytest.raises(ValueError, match="margin must not be negative"):
        equivalence(0.5, 0.1, margin=-0.1)
    assert verdict_by_interval((float("nan"), float("nan")), 0.1) == "inconclusive"
    with pytest.raises(ValueError, match="standard error must be positive"):
        equivalence(0.5, 0.0, margin=0.1)
    with pytest.raises(ValueError, match="at least two"):
        equivalence_of_mean([0.5], margin=0.1)
    with pytest.raises(ValueError, match="at least one image"):
        equivalence_of_proportion(0, 0, margin=0.1)


def test_a_margin_beyond_zero_or_one_holds_on_that_side():
    found = equivalence_of_proportion(1, 200, margin=0.1, reference=0.05)
    assert found.verdict == "equivalent"  # nothing lies below −0.05
    assert proportion_confint(1, 200, 0.1, "beta")[1] < 0.15
