"""Cohen's h and the amplification slope."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.stats import linregress
from statsmodels.stats.proportion import proportion_effectsize

from audit.statistics import amplification_slope, cohens_h, wilson

REFERENCES = Path(__file__).parents[2] / "datasets" / "references"


def test_h_is_that_of_statsmodels():
    for k, n, other, m in ((70, 100, 50, 100), (0, 20, 5, 30), (20, 20, 3, 50)):
        h, (low, high) = cohens_h(k, n, (other, m))
        assert h == pytest.approx(proportion_effectsize(k / n, other / m))
        assert low < h < high or (k in (0, n) and low <= h <= high)


def test_the_interval_of_h_transforms_wilsons_and_is_the_textbooks_where_that_holds():
    _, (low, high) = cohens_h(70, 100, 0.5)
    assert (low, high) == pytest.approx(
        tuple(proportion_effectsize(p, 0.5) for p in wilson(70, 100))
    )
    h, (low, high) = cohens_h(2000, 4000, (2200, 4000))
    half = 1.959964 * np.sqrt(2 / 4000)
    assert (low, high) == pytest.approx((h - half, h + half), abs=1e-3)


def shares(name: str) -> dict[str, float]:
    with (REFERENCES / name).open() as file:
        return {row["id"]: float(row["share_female"]) for row in csv.DictReader(file)}


def test_stable_diffusion_amplifies_the_labour_market():
    # Published over 62 occupations: r = .904, slope 1.48, mean gap .118. 48 of them are shared.
    model, labour = shares("sd15_fair_diffusion.csv"), shares("bls_cps_2022.csv")
    ids = sorted(model.keys() & labour.keys())
    assert len(ids) == 48
    counts = np.round([250 * model[i] for i in ids])
    found = amplification_slope(counts, np.full(48, 250), [labour[i] for i in ids])
    assert found.slope == pytest.approx(1.48, abs=0.05)
    assert found.r == pytest.approx(0.904, abs=0.02)
    assert found.mean_gap == pytest.approx(0.118, abs=0.02)
    assert 1 < found.ci[0] < 1.48 < found.ci[1] < 1.8
    assert found.amplified > 5 * found.flipped > 0


def test_the_slope_and_its_interval_are_those_of_statsmodels_with_hc3():
    rng = np.random.default_rng(0)
    reference = rng.uniform(0.05, 0.95, 30)
    logit = np.log(reference / (1 - reference))
    counts = rng.binomial(100, 1 / (1 + np.exp(-0.3 - 1.4 * logit - rng.normal(0, 0.5, 30))))
    found = amplification_slope(counts, np.full(30, 100), reference)
    y = np.log((counts + 0.5) / (100 - counts + 0.5))
    fit = sm.OLS(y, sm.add_constant(logit)).fit(cov_type="HC3", use_t=True)
    assert (found.intercept, found.slope) == pytest.approx(tuple(fit.params))
    assert found.ci == pytest.approx(tuple(fit.conf_int()[1]))
    assert found.slope == pytest.approx(linregress(logit, y).slope)


def test_a_copy_has_slope_one_and_an_inversion_minus_one():
    reference = np.array([0.1, 0.3, 0.6, 0.8, 0.9])
    n = np.full(5, 100_000)
    copied = amplification_slope(reference * n, n, reference)
    assert copied.slope == pytest.approx(1, abs=1e-3)
    assert (copied.amplified, copied.flipped, copied.r) == (0, 0, pytest.approx(1))
    inverted = amplification_slope((1 - reference) * n, n, reference)
    assert inverted.slope == pytest.approx(-1, abs=1e-3)
    assert inverted.flipped == 5
    # An inversion lies as far from parity as what it inverts.
    assert copied.mean_amplification == pytest.approx(0, abs=1e-9)
    assert inverted.mean_amplification == pytest.approx(0, abs=1e-9)
    halved = amplification_slope(((reference - 0.5) / 2 + 0.5) * n, n, reference)
    assert halved.mean_amplification == pytest.approx(-np.abs(reference - 0.5).mean() / 2)


def test_a_reference_without_odds_is_refused():
    with pytest.raises(ValueError, match="strictly between"):
        amplification_slope([1, 2], [3, 3], [0.0, 0.5])
    with pytest.raises(ValueError, match="two different"):
        amplification_slope([1, 2], [3, 3], [0.5, 0.5])
    assert np.isnan(amplification_slope([1, 2, 3], [5, 5, 5], [0.2, 0.5, 0.6]).ci).all()
