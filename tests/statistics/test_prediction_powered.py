"""The expected figures are those of ppi_py 0.2.3, called with lam=None on the same arrays."""

from __future__ import annotations

import numpy as np
import pytest

from audit.statistics import prediction_powered_difference, prediction_powered_mean

FIRST, SECOND = np.arange(60), np.arange(500)
LABELS = (FIRST * 7 % 10 < 4).astype(float)
PREDICTIONS = np.where(FIRST % 9 == 0, 1 - LABELS, LABELS)
UNLABELLED = (SECOND * 13 % 50 < 19).astype(float)
SCORES = np.sin(FIRST) + FIRST / 60
GUESSES = SCORES + 0.3 * np.cos(3 * FIRST)
REST = np.sin(SECOND) + SECOND / 500 + 0.3 * np.cos(3 * SECOND)


@pytest.mark.parametrize(
    ("arrays", "mean", "ci"),
    [
        ((LABELS, PREDICTIONS, UNLABELLED), 0.37466989, (0.28842197, 0.46091781)),
        ((SCORES, GUESSES, REST), 0.50367883, (0.42414719, 0.58321046)),
        ((SCORES, GUESSES, REST[:40]), 0.35752662, (0.20854609, 0.50650716)),
    ],
)
def test_means_and_proportions_are_those_of_ppi_py(arrays, mean: float, ci: tuple[float, float]):
    found, (low, high) = prediction_powered_mean(*arrays)
    # Ours divides by n − 1 where theirs divides by n, 60 here.
    assert found == pytest.approx(mean, abs=1e-7)
    assert high - low == pytest.approx((ci[1] - ci[0]) * np.sqrt(60 / 59), rel=0.004)


def test_the_width_at_ninety_percent_accuracy():
    # 200 labels + 5,000 predictions right 90% of the time: .084 against .133 from the labels.
    widths, alone = [], []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        y = rng.random(5200) < 0.36
        f = y ^ (rng.random(5200) < 0.1)
        _, (low, high) = prediction_powered_mean(y[:200], f[:200], f[200:])
        widths.append(high - low)
        alone.append(2 * 1.96 * y[:200].std() / 200**0.5)
    assert np.mean(widths) == pytest.approx(0.084, abs=0.002)
    assert np.mean(alone) == pytest.approx(0.133, abs=0.002)


def test_useless_predictions_cost_nothing():
    rng = np.random.default_rng(0)
    y = (rng.random(100) < 0.5).astype(float)
    mean, (low, high) = prediction_powered_mean(y, np.ones(100), np.ones(1000))
    assert mean == pytest.approx(y.mean())
    assert high - low == pytest.approx(2 * 1.959964 * y.std(ddof=1) / 10)


def test_a_difference_adds_the_variances():
    one = (LABELS, PREDICTIONS, UNLABELLED)
    other = (LABELS[:40], PREDICTIONS[:40], UNLABELLED[:300])
    difference, (low, high) = prediction_powered_difference(one, other)
    means, widths = zip(
        *((m, c[1] - c[0]) for m, c in (prediction_powered_mean(*g) for g in (one, other))),
        strict=True,
    )
    assert difference == pytest.approx(means[0] - means[1])
    assert high - low == pytest.approx(np.hypot(*widths))


def test_labels_and_predictions_must_match():
    with pytest.raises(ValueError, match="3 labels but 2 predictions"):
        prediction_powered_mean([1, 0, 1], [1, 0], [1, 0])
    with pytest.raises(ValueError, match="two labelled"):
        prediction_powered_mean([1], [1], [1, 0])
