from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from audit.statistics import correct_shares, rogan_gladen


def test_the_variance_is_that_of_a_simulation():
    rng = np.random.default_rng(0)
    p, se, sp, n, n1, n0 = 0.3, 0.9, 0.8, 5000, 1200, 800
    q = rng.binomial(n, p * se + (1 - p) * (1 - sp), 200_000) / n
    a, b = rng.binomial(n1, se, 200_000) / n1, rng.binomial(n0, sp, 200_000) / n0
    spread = ((q + b - 1) / (a + b - 1)).std()
    found = rogan_gladen(n * (p * se + (1 - p) * (1 - sp)), n, (n1 * se, n1), (n0 * sp, n0))
    assert found.estimate == pytest.approx(p)
    assert found.standard_error == pytest.approx(spread, rel=0.02)


def test_a_perfect_classifier_with_many_labels_is_left_alone():
    found = rogan_gladen(30, 100, (10**8, 10**8), (10**8, 10**8))
    assert found.estimate == pytest.approx(found.raw)
    # Agresti and Coull's interval, on Wilson's centre.
    n, p = 100 + 1.959964**2, (30 + 1.959964**2 / 2) / (100 + 1.959964**2)
    half = 1.959964 * np.sqrt(p * (1 - p) / n)
    assert found.ci == pytest.approx((p - half, p + half), abs=1e-6)


def test_a_classifier_no_better_than_chance_tells_nothing():
    for nothing in (
        rogan_gladen(30, 100, (10, 20), (9, 20)),
        rogan_gladen(30, 100, (0, 0), (9, 20)),
        rogan_gladen(0, 0, (19, 20), (19, 20)),
    ):
        assert np.isnan(nothing.estimate)
        assert nothing.ci == (0.0, 1.0)
    assert rogan_gladen(1, 100, (90, 100), (90, 100)).estimate == 0.0
    with pytest.raises(ValueError, match="sensitivity: 30 of 20"):
        rogan_gladen(1, 2, (30, 20), (9, 20))


def test_two_classes_are_corrected_as_by_rogan_and_gladen():
    shares, bounds = correct_shares([400, 600], [[85, 15], [10, 90]], draws=4000)
    found = rogan_gladen(400, 1000, (85, 100), (90, 100))
    assert shares[0] == pytest.approx(found.estimate)
    assert bounds[0] == pytest.approx(np.array(found.ci), abs=0.01)
    assert bounds[1] == pytest.approx(1 - bounds[0][::-1])


def test_many_classes_get_the_inverse_where_it_is_a_distribution():
    matrix = np.array([[80, 15, 5], [10, 80, 10], [5, 5, 90]])
    true = np.array([0.5, 0.3, 0.2])
    shares, bounds = correct_shares(1000 * true @ (matrix / 100), matrix)
    assert shares == pytest.approx(true)
    assert ((bounds[:, 0] < true) & (true < bounds[:, 1])).all()


def test_elsewhere_they_get_the_likeliest_distribution():
    matrix = np.array([[70, 20, 10], [10, 80, 10], [25, 15, 60]]) / 100
    counts = np.array([10.0, 85.0, 5.0])  # more of class 1 than even pure class 1 would give
    assert (counts @ np.linalg.inv(matrix) < 0).any()

    def minus_log_likelihood(p: np.ndarray) -> float:
        return -float(counts @ np.log(p @ matrix))

    best = minimize(
        minus_log_likelihood,
        np.full(3, 1 / 3),
        bounds=[(1e-9, 1)] * 3,
        constraints={"type": "eq", "fun": lambda p: p.sum() - 1},
        tol=1e-12,
    )
    shares, _ = correct_shares(counts, matrix * 100)
    assert shares == pytest.approx(best.x, abs=1e-3)
    assert shares.sum() == pytest.approx(1)


def test_few_labels_widen_the_interval():
    counts, matrix = [500, 300, 200], np.array([[8, 1, 1], [1, 8, 1], [1, 1, 8]])
    few, many = (correct_shares(counts, matrix * times)[1] for times in (1, 100))
    assert (np.diff(few) > 3 * np.diff(many)).all()
    with pytest.raises(ValueError, match="class 2 has no labelled image"):
        correct_shares(counts, [[8, 1, 1], [1, 8, 1], [0, 0, 0]])
    with pytest.raises(ValueError, match="3 × 3 confusion"):
        correct_shares(counts, [[8, 1], [1, 8]])
