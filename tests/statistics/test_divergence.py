from __future__ import annotations

from math import comb

import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.spatial.distance import jensenshannon
from scipy.stats import binom, binomtest, entropy

from audit.statistics import (
    against_null,
    clopper_pearson,
    jensen_shannon,
    kullback_leibler,
    mean_absolute_deviation,
    total_variation,
    total_variation_interval,
)

HALF = [0.5, 0.5]


def test_distances_are_those_of_scipy():
    rng = np.random.default_rng(0)
    counts, reference = rng.integers(0, 20, (7, 5)), rng.dirichlet(np.ones(5))
    p = counts / counts.sum(axis=1, keepdims=True)
    theirs = jensenshannon(p, reference[None], base=2, axis=1) ** 2
    assert jensen_shannon(counts, reference) == pytest.approx(theirs)
    smoothed = (counts + 0.5) / (counts.sum(axis=1, keepdims=True) + 2.5)
    assert kullback_leibler(counts, reference) == pytest.approx(
        entropy(smoothed, reference[None], base=2, axis=1)
    )
    # The largest difference of probability over all sets of classes.
    sets = np.array([[i >> k & 1 for k in range(5)] for i in range(32)])
    assert total_variation(counts, reference) == pytest.approx(((p - reference) @ sets.T).max(1))


@pytest.mark.parametrize(("n", "floor"), [(8, 0.137), (10, 0.123), (100, 0.040), (250, 0.025)])
def test_the_floor_at_parity(n: int, floor: float):
    found = against_null(total_variation, [n // 2, n - n // 2], HALF)
    assert found.exact
    assert found.floor == pytest.approx(floor, abs=5e-4)
    # De Moivre 1730: E|X/n − ½| = C(n, ⌈n/2⌉) ⌈n/2⌉ / (n 2ⁿ).
    half = -(-n // 2)
    assert found.floor == pytest.approx(comb(n, half) * half / n / 2**n)
    assert found.p == pytest.approx(1)


def test_ten_tones_look_uneven_with_eight_images():
    uniform = np.full(10, 0.1)
    one_tone = against_null(mean_absolute_deviation, [8] + [0] * 9, uniform)
    assert one_tone.exact
    assert one_tone.estimate == pytest.approx(0.18)
    # Each tone is binomial: its own E|X/8 − .1|.
    k = np.arange(9)
    assert one_tone.floor == pytest.approx(binom.pmf(k, 8, 0.1) @ np.abs(k / 8 - 0.1))
    assert one_tone.floor == pytest.approx(0.086, abs=5e-4)
    assert one_tone.excess == pytest.approx(0.18 - one_tone.floor)


def test_the_p_value_of_two_classes_is_the_exact_binomial_one():
    for k in range(21):
        found = against_null(total_variation, [k, 20 - k], HALF)
        assert found.p == pytest.approx(binomtest(k, 20).pvalue)


def test_the_simulated_floor_equals_the_exact_one_and_p_values_hold_their_level():
    rng = np.random.default_rng(1)
    uniform = np.full(4, 0.25)
    exact = against_null(jensen_shannon, [10, 20, 15, 15], uniform)
    import audit.statistics.divergence as module

    most, module.MOST_OUTCOMES = module.MOST_OUTCOMES, 0
    try:
        simulated = against_null(jensen_shannon, [10, 20, 15, 15], uniform)
        ps = [
            against_null(total_variation, rng.multinomial(60, uniform), uniform, draws=200).p
            for _ in range(400)
        ]
    finally:
        module.MOST_OUTCOMES = most
    assert exact.exact and not simulated.exact
    assert simulated.floor == pytest.approx(exact.floor, rel=0.03)
    assert simulated.p == pytest.approx(exact.p, abs=0.02)
    assert np.mean(np.array(ps) <= 0.1) < 0.14


def test_the_interval_of_total_variation_is_the_optimum_of_a_linear_program():
    rng = np.random.default_rng(2)
    for classes in (2, 3, 5):
        reference = rng.dirichlet(np.ones(classes))
        counts = rng.multinomial(40, rng.dirichlet(np.ones(classes)))
        each = 0.95 if classes == 2 else 1 - 0.05 / classes
        box = [clopper_pearson(int(k), 40, each) for k in counts]
        eye = np.eye(classes)
        # The least ½ Σ t with t ≥ |p − r|, p in the box and on the simplex.
        least = linprog(
            np.r_[np.zeros(classes), np.full(classes, 0.5)],
            A_ub=np.block([[eye, -eye], [-eye, -eye]]),
            b_ub=np.r_[reference, -reference],
            A_eq=[np.r_[np.ones(classes), np.zeros(classes)]],
            b_eq=[1],
            bounds=[*box, *[(0, None)] * classes],
        ).fun
        most = max(
            -linprog(-s, A_eq=[np.ones(classes)], b_eq=[1], bounds=box).fun - s @ reference
            for s in np.array([[i >> k & 1 for k in range(classes)] for i in range(2**classes)])
        )
        found = total_variation_interval(counts, reference)
        assert found == pytest.approx((least, most), abs=1e-8)
        assert found[0] <= total_variation(counts, reference) <= found[1]


def test_collapse_onto_one_class_is_seen_and_an_impossible_reference_refused():
    assert kullback_leibler([100, 0, 0], np.full(3, 1 / 3)) > 1.4  # log₂ 3 = 1.58
    with pytest.raises(ValueError, match="share above 0"):
        kullback_leibler([1, 1], [1.0, 0.0])
    with pytest.raises(ValueError, match="sum to 1"):
        total_variation([1, 1], [0.5, 0.6])
    with pytest.raises(ValueError, match="reference of 3 classes"):
        total_variation([1, 1], np.full(3, 1 / 3))
    with pytest.raises(ValueError, match="at least one image"):
        total_variation([0, 0], HALF)
