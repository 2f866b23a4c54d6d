from __future__ import annotations

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from audit.statistics import brier_score, calibration_error


@pytest.fixture(scope="module")
def drawn() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    p = rng.beta(2, 3, 2000)
    return p, rng.random(2000) < p**1.5


@pytest.mark.parametrize(("scheme", "strategy"), [("width", "uniform"), ("mass", "quantile")])
def test_the_bins_are_those_of_sklearn(drawn, scheme, strategy: str):
    p, y = drawn
    found = calibration_error(p, y, bins=10, scheme=scheme)
    rate, mean = calibration_curve(y, p, n_bins=10, strategy=strategy)
    assert found.mean == pytest.approx(mean, abs=1e-3)
    assert found.rate == pytest.approx(rate, abs=0.01)
    assert found.ece == pytest.approx(found.n / 2000 @ np.abs(found.rate - found.mean))
    assert found.n.sum() == 2000


def test_ties_share_a_bin_and_edges_belong_to_the_bin_below():
    found = calibration_error([0.5] * 30 + [0.9] * 10, [0, 1] * 20, bins=8)
    assert found.n.tolist() == [30, 10]
    edges = calibration_error([0.1, 0.2, 0.3, 1.0], [0, 0, 0, 1], bins=10, scheme="width")
    assert edges.mean.tolist() == pytest.approx([0.1, 0.2, 0.3, 1.0])


def test_true_probabilities_have_no_error_beyond_the_floor():
    rng = np.random.default_rng(1)
    ece, floor, squared = [], [], []
    for seed in range(200):
        p = rng.uniform(0, 1, 300)
        found = calibration_error(p, rng.random(300) < p, draws=100, seed=seed)
        ece.append(found.ece)
        floor.append(found.floor)
        squared.append(found.rms)
    assert np.mean(ece) == pytest.approx(np.mean(floor), rel=0.03)
    assert np.mean(ece) > 0.05  # which is what the floor is for
    assert np.mean(np.array(squared) == 0) > 0.4


def test_the_debiased_error_is_right_where_the_plain_one_is_not():
    rng = np.random.default_rng(2)
    # Probabilities .1 too high everywhere; few images a bin.
    found = [
        calibration_error(p, rng.random(200) < p - 0.1, bins=20, draws=1)
        for p in (rng.uniform(0.2, 0.8, 200) for _ in range(200))
    ]
    assert np.sqrt(np.mean([f.rms**2 for f in found])) == pytest.approx(0.1, abs=0.01)
    assert np.mean([f.ece for f in found]) > 0.12


def test_the_brier_score_and_its_parts(drawn):
    p, y = drawn
    p = p.round(1)
    found = brier_score(p, y)
    assert found.score == pytest.approx(brier_score_loss(y, p))
    assert found.score == pytest.approx(found.reliability - found.resolution + found.uncertainty)
    assert found.uncertainty == pytest.approx(y.mean() * (1 - y.mean()))
    assert found.reliability > 0 and found.resolution > 0


def test_what_is_no_probability_is_refused():
    with pytest.raises(ValueError, match="0…1"):
        brier_score([1.2], [1])
    with pytest.raises(ValueError, match="2 probabilities but 1 labels"):
        calibration_error([0.1, 0.2], [1])
    with pytest.raises(ValueError, match="scheme must be"):
        calibration_error([0.1], [1], scheme="equal")
