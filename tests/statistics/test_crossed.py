from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.stats import t

from audit.statistics import crossed_bootstrap, two_way_difference, two_way_mean


def crossing(prompts: int, seeds: int, spread: tuple[float, float, float], rng) -> tuple:
    """Values of every prompt with every seed: effects of prompt and of seed, and noise."""
    a, b = spread[0] * rng.normal(size=prompts), spread[1] * rng.normal(size=seeds)
    e = spread[2] * rng.normal(size=(prompts, seeds))
    values = (a[:, None] + b + e).ravel()
    return values, np.repeat(np.arange(prompts), seeds), np.tile(np.arange(seeds), prompts)


def test_two_way_errors_are_those_of_statsmodels():
    rng = np.random.default_rng(0)
    values, prompts, seeds = crossing(12, 9, (1, 1, 1), rng)
    kept = rng.random(len(values)) < 0.8  # images are missing here and there
    values, prompts, seeds = values[kept], prompts[kept], seeds[kept]
    fit = sm.OLS(values, np.ones(len(values))).fit(
        cov_type="cluster", cov_kwds={"groups": np.c_[prompts, seeds]}
    )
    mean, (low, high) = two_way_mean(values, prompts, seeds)
    assert mean == pytest.approx(fit.params[0])
    assert (high - low) / 2 == pytest.approx(fit.bse[0] * t.ppf(0.975, 8))


def test_the_two_way_difference_is_the_regression_on_the_arm():
    rng = np.random.default_rng(1)
    values, prompts, seeds = crossing(12, 9, (1, 1, 1), rng)
    for treated in (prompts % 2, seeds % 2, rng.integers(0, 2, len(values))):
        model = sm.OLS(values, sm.add_constant(treated))
        fits = [
            model.fit(cov_type="cluster", cov_kwds={"groups": groups})
            for groups in (np.c_[prompts, seeds], prompts, seeds)
        ]
        difference, (low, high) = two_way_difference(values, treated, prompts, seeds)
        assert difference == pytest.approx(fits[0].params[1])
        # statsmodels scales by (n − 1)/(n − 2) for the two coefficients.
        scale = np.sqrt((len(values) - 2) / (len(values) - 1))
        error = max(fit.bse[1] for fit in fits) * scale
        assert (high - low) / 2 == pytest.approx(error * t.ppf(0.975, 8))


def test_the_difference_of_pairs_is_the_mean_of_differences():
    rng = np.random.default_rng(2)
    values, prompts, seeds = crossing(10, 8, (1, 1, 1), rng)
    changed = values + 0.3 + 0.1 * rng.normal(size=len(values))
    both = two_way_difference(
        np.r_[changed, values],
        np.repeat([1, 0], len(values)),
        np.tile(prompts, 2),
        np.tile(seeds, 2),
    )
    paired = two_way_mean(changed - values, prompts, seeds)
    assert both[0] == pytest.approx(paired[0])
    assert both[1][1] - both[1][0] == pytest.approx(paired[1][1] - paired[1][0], rel=0.05)


def test_the_pigeonhole_bootstrap_has_the_variance_of_its_weights():
    rng = np.random.default_rng(3)
    values, prompts, seeds = crossing(30, 25, (1, 0.7, 1), rng)
    x = values.reshape(30, 25)
    # E[W_i W_j] = 1 − 1/G + [i = j] for multinomial weights, of prompts and of seeds.
    rows, columns = (1 - 1 / g + np.eye(g) for g in x.shape)
    square = np.einsum("ik,jl,ij,kl->", rows, columns, x, x) / x.size**2
    error = np.sqrt(square - x.mean() ** 2)
    mean, (low, high) = crossed_bootstrap(values, prompts, seeds, draws=8000)
    assert mean == pytest.approx(x.mean())
    assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.04)


def test_the_bootstrap_of_two_arms_resamples_what_they_share():
    rng = np.random.default_rng(4)
    values, prompts, seeds = crossing(25, 20, (2, 2, 0.1), rng)
    arms = np.repeat([True, False], len(values))
    both, p, s = np.r_[values + 1, values], np.tile(prompts, 2), np.tile(seeds, 2)
    difference, (low, high) = crossed_bootstrap(both, p, s, arms)
    assert difference == pytest.approx(1)
    assert low == pytest.approx(1) and high == pytest.approx(1)  # the arms have the same effects


def test_no_interval_from_one_prompt_and_no_number_from_missing_values():
    assert np.isnan(two_way_mean([0, 1], ["a", "a"], [0, 1])[1]).all()
    assert np.isnan(crossed_bootstrap([0, 1], ["a", "a"], [0, 1])[1]).all()
    with pytest.raises(ValueError, match="must be finite"):
        two_way_mean([0, np.nan], ["a", "b"], [0, 1])
    with pytest.raises(ValueError, match="2 values but 1 prompts"):
        two_way_mean([0, 1], ["a"], [0, 1])
    with pytest.raises(ValueError, match="treated and untreated"):
        two_way_difference([0, 1], [1, 1], ["a", "b"], [0, 1])
