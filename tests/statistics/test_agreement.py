from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from statsmodels.stats.inter_rater import cohens_kappa

from audit.statistics import cohen_kappa, krippendorff_alpha

N = np.nan
# Krippendorff's own example: four observers, twelve units, seven labels missing.
TWELVE = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, N, N, N],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, N, 3],
    [N, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, N],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, N],
]


@pytest.mark.parametrize(
    ("metric", "alpha"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)]
)
def test_the_published_example(metric, alpha: float):
    found, (low, high) = krippendorff_alpha(TWELVE, metric)
    assert found == pytest.approx(alpha, abs=5e-4)
    assert low < found < high <= 1


@pytest.mark.parametrize("metric", ["nominal", "ordinal", "interval"])
def test_it_is_one_minus_observed_over_expected_disagreement_of_pairs(metric):
    # From the definition, pair by pair.
    rng = np.random.default_rng(0)
    ratings = np.where(rng.random((3, 15)) < 0.2, N, rng.integers(1, 5, (3, 15)))
    units = [u[~np.isnan(u)] for u in ratings.T if (~np.isnan(u)).sum() > 1]
    pooled = np.concatenate(units)
    n = len(pooled)

    def distance(c: float, k: float) -> float:
        if metric == "nominal":
            return float(c != k)
        if metric == "interval":
            return (c - k) ** 2
        c, k = sorted((c, k))
        ends = ((pooled == c).sum() + (pooled == k).sum()) / 2
        return float(((pooled >= c) & (pooled <= k)).sum() - ends) ** 2 if c != k else 0.0

    observed = sum(
        sum(distance(a, b) for a, b in permutations(unit, 2)) / (len(unit) - 1) for unit in units
    )
    expected = sum(distance(a, b) for a, b in permutations(pooled, 2)) / (n - 1)
    found, _ = krippendorff_alpha(ratings, metric)
    assert found == pytest.approx(1 - observed / expected)


def test_its_interval_covers():
    # Two raters who each give the true label with probability .8 and else the other: with even
    # labels, agreement is .68 and α = 1 − .32/.5 = .36.
    rng = np.random.default_rng(1)
    covered = []
    for seed in range(250):
        truth = rng.random(100) < 0.5
        ratings = truth ^ (rng.random((2, 100)) < 0.2)
        _, (low, high) = krippendorff_alpha(ratings, draws=250, seed=seed)
        covered.append(low <= 0.36 <= high)
    assert 0.91 <= np.mean(covered) <= 0.98


def test_nothing_told_apart_gives_no_alpha():
    alpha, (low, high) = krippendorff_alpha([[1, 1, 1], [1, 1, 1]])
    assert np.isnan([alpha, low, high]).all()
    with pytest.raises(ValueError, match="two labels"):
        krippendorff_alpha([[1, N], [N, 1]])
    with pytest.raises(ValueError, match="raters, units"):
        krippendorff_alpha([1, 2])
    with pytest.raises(ValueError, match="metric must be"):
        krippendorff_alpha([[1, 2], [1, 2]], "ratio")


@pytest.mark.parametrize("table", [(20, 5, 10, 15), (33, 7, 31, 7), (0, 4, 9, 12), (40, 1, 0, 3)])
def test_cohen_kappa_is_that_of_statsmodels(table: tuple[int, int, int, int]) -> None:
    kappa, ci = cohen_kappa(*table)
    expected = cohens_kappa(np.reshape(table, (2, 2)))
    assert kappa == pytest.approx(expected.kappa)
    assert ci == pytest.approx((expected.kappa_low, min(1.0, expected.kappa_upp)))


def test_kappa_of_one_answer_only_says_nothing() -> None:
    assert np.isnan(cohen_kappa(0, 0, 0, 12)[0])
    kappa, ci = cohen_kappa(40, 0, 0, 3)
    assert kappa == 1 and np.isnan(ci).all()
    with pytest.raises(ValueError, match="one image or more"):
        cohen_kappa(0, 0, 0, 0)
