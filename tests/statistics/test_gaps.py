from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats.proportion import confint_proportions_2indep

from audit.statistics import clustered_rate, newcombe, rate, stratified_shares, wilson


@pytest.mark.parametrize(("k", "n", "j", "m"), [(7, 20, 3, 25), (0, 12, 5, 9), (30, 30, 28, 40)])
def test_newcombe_of_independent_samples_is_that_of_statsmodels(
    k: int, n: int, j: int, m: int
) -> None:
    found = newcombe(k / n, wilson(k, n), j / m, wilson(j, m))
    expected = confint_proportions_2indep(k, n, j, m, compare="diff", method="newcomb")
    assert found == pytest.approx(expected, abs=1e-9)


def test_one_stratum_is_the_plain_difference() -> None:
    p, q, ci = stratified_shares([7], [20], [3], [25])
    assert (p, q) == (0.35, 0.12)
    # One sample of the variance of both shares' weights: the stratum's own sizes.
    assert ci == pytest.approx(newcombe(p, wilson(7, 20), q, wilson(3, 25)))


def test_a_gap_within_strata_is_not_one_between_them() -> None:
    # Simpson's paradox: within each stratum both groups are blocked alike.
    p, q, (low, high) = stratified_shares([90, 1], [100, 10], [9, 10], [10, 100])
    assert p == pytest.approx(q)
    assert low < 0 < high


def test_counts_of_clusters_give_the_rate_of_their_images() -> None:
    rng = np.random.default_rng(3)
    members = rng.integers(1, 9, 30)
    events = rng.binomial(members, rng.uniform(0, 1, 30))
    images = np.concatenate(
        [np.r_[np.ones(k), np.zeros(n - k)] for k, n in zip(events, members, strict=True)]
    ).astype(bool)
    names = np.repeat(np.arange(30), members)
    assert clustered_rate(events, members) == rate(images, names)
    assert clustered_rate([], []).estimate is None
    with pytest.raises(ValueError, match="one image or more"):
        clustered_rate([1], [0])
