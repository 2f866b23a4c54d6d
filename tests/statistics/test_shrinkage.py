from __future__ import annotations

import numpy as np
import pytest
from scipy.special import betaln

from audit.statistics import shrink_cells

# Tumours in 71 groups of rats: Tarone 1982, as in Gelman et al. 2013, table 5.1.
RATS = (
    "0/20 0/20 0/20 0/20 0/20 0/20 0/20 0/19 0/19 0/19 0/19 0/18 0/18 0/17 1/20 1/20 1/20 1/20 "
    "1/19 1/19 1/18 1/18 2/25 2/24 2/23 2/20 2/20 2/20 2/20 2/20 2/20 1/10 5/49 2/19 5/46 3/27 "
    "2/17 7/49 7/47 3/20 3/20 2/13 9/48 10/50 4/20 4/20 4/20 4/20 4/20 4/20 4/20 10/48 4/19 4/19 "
    "4/19 5/22 11/46 12/49 5/20 5/20 6/23 5/19 6/22 6/20 6/20 6/20 16/52 15/46 15/47 9/24 4/14"
)


def test_the_posterior_of_a_textbook_example():
    k, n = np.array([group.split("/") for group in RATS.split()], dtype=int).T
    found = shrink_cells(k, n)
    # The posterior means printed there (sec. 5.3): E(a) = 2.4, E(b) = 14.3.
    assert found.mean == pytest.approx(2.4 / (2.4 + 14.3), abs=0.005)
    assert found.concentration == pytest.approx(2.4 + 14.3, rel=0.15)
    # The same posterior by random draws in place of a grid: a random walk over (a, b).
    rng = np.random.default_rng(0)
    groups, times = np.unique(np.c_[k, n], axis=0, return_counts=True)

    def log_posterior(log_a: np.ndarray, log_b: np.ndarray) -> np.ndarray:
        a, b = np.exp(log_a)[:, None], np.exp(log_b)[:, None]
        hits, misses = groups[:, 0], groups[:, 1] - groups[:, 0]
        likelihood = (betaln(a + hits, b + misses) - betaln(a, b)) @ times
        return likelihood - 2.5 * np.log(a + b)[:, 0] + log_a + log_b

    at = np.log([[2.4], [14.3]]) + 0.2 * rng.normal(size=(2, 1000))
    now = log_posterior(*at)
    for _ in range(80):
        step = at + 0.35 * rng.normal(size=1000) + 0.1 * rng.normal(size=(2, 1000))
        then = log_posterior(*step)
        moved = np.log(rng.random(1000)) < then - now
        at, now = np.where(moved, step, at), np.where(moved, then, now)
    a, b = np.exp(at)
    assert (a.mean(), b.mean()) == pytest.approx((2.4, 14.3), rel=0.07)
    for group in (0, 40, 70):
        drawn = rng.beta(a + k[group], b + n[group] - k[group], (20, 1000))
        assert found.estimate[group] == pytest.approx(drawn.mean(), abs=0.004)
        assert found.ci[group] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.01)


def test_it_errs_less_than_raw_shares_and_its_intervals_cover():
    rng = np.random.default_rng(0)
    shrunk, raw, covered = [], [], []
    for _ in range(50):
        truth = rng.beta(3, 5, 12)
        n = rng.integers(4, 25, 12)
        k = rng.binomial(n, truth)
        found = shrink_cells(k, n)
        shrunk.append((found.estimate - truth) ** 2)
        raw.append((found.raw - truth) ** 2)
        covered.append((found.ci[:, 0] <= truth) & (truth <= found.ci[:, 1]))
    assert np.mean(shrunk) < 0.75 * np.mean(raw)
    assert 0.93 <= np.mean(covered) <= 0.97


def test_alike_cells_meet_and_unlike_ones_stay_apart():
    alike = shrink_cells([5, 6, 4, 5, 5, 6], [20] * 6)
    assert np.ptp(alike.estimate) < 0.5 * np.ptp(alike.raw)
    apart = shrink_cells([10, 390, 15, 380], [400] * 4)
    assert apart.estimate == pytest.approx(apart.raw, abs=0.01)
    assert alike.concentration > 10 > apart.concentration


def test_an_empty_cell_gets_what_the_others_tell():
    found = shrink_cells([5, 8, 3, 0], [10, 10, 10, 0])
    assert np.isnan(found.raw[3])
    assert found.estimate[3] == pytest.approx(found.mean, abs=1e-9)
    assert np.diff(found.ci)[3] > 1.2 * np.diff(found.ci)[:3].max()
    with pytest.raises(ValueError, match="every cell is empty"):
        shrink_cells([0], [0])
