from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import beta, binom, binomtest
from statsmodels.stats.proportion import proportion_confint

from audit.statistics import clopper_pearson, confidence_sequence
from audit.statistics.sequential import repeated_interval, repeated_tests, spending


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 10), (10, 10), (40, 200), (1, 1)])
def test_its_ends_are_where_the_mixtures_likelihood_ratio_is_twenty(k: int, n: int):
    mixture = quad(lambda p: binom.pmf(k, n, p) * beta.pdf(p, 0.5, 0.5), 0, 1)[0]
    low, high = (float(x) for x in confidence_sequence(k, n))
    for end in (low, high):
        if 0 < end < 1:
            assert mixture / binom.pmf(k, n, end) == pytest.approx(20, rel=1e-5)
    assert (low == 0) == (k == 0) and (high == 1) == (k == n)


def test_it_is_wider_than_an_interval_for_one_look_and_still_shrinks():
    for n in (20, 200, 2000):
        low, high = confidence_sequence(n // 4, n)
        once = clopper_pearson(n // 4, n)
        assert low < once[0] < once[1] < high
        assert high - low < 2.2 * (once[1] - once[0])


def test_nothing_is_known_before_the_first_image():
    low, high = confidence_sequence([0, 0], [0, 1])
    assert low.tolist() == [0, 0]
    assert high[0] == 1 and 0.9 < high[1] < 1
    with pytest.raises(ValueError, match="0…n"):
        confidence_sequence(3, 2)


LOOKS = list(range(50, 1001, 25))
BUDGET = [50, 75, 100, 125, 150, 175, 200]


def paths(share: float, looks: list[int], runs: int = 4000) -> np.ndarray:
    """Successes at each look of many runs, shape (runs, looks)."""
    rng = np.random.default_rng([round(share * 1000), len(looks)])
    return rng.binomial(np.diff(looks, prepend=0), share, (runs, len(looks))).cumsum(axis=1)


def ever(k: np.ndarray, looks: list[int], wrong: Callable[..., np.ndarray]) -> float:
    """The share of runs that are `wrong`(k, n, spent) at any look."""
    at_look = zip(k.T, looks, spending(looks), strict=True)
    return np.any([wrong(np.arange(n + 1), n, part)[own] for own, n, part in at_look], 0).mean()


def misses(share: float, interval: Callable[..., Any]) -> Callable[..., np.ndarray]:
    def wrong(k: np.ndarray, n: int, part: float) -> np.ndarray:
        low, high = interval(k, n, part)
        return (share < low) | (share > high)

    return wrong


def test_a_look_s_interval_is_clopper_and_pearson_s_at_its_part_of_alpha():
    spent = spending(BUDGET)
    for n, part in zip(BUDGET, spent, strict=True):
        for k in (0, 1, n // 3, n - 1, n):
            known = proportion_confint(k, n, 0.05 * part, method="beta")
            low, high = repeated_interval(k, n, part)
            assert (low, high) == pytest.approx(np.nan_to_num(known, nan=float(k == n)), abs=1e-9)
    assert [x.tolist() for x in repeated_interval(0, 0, 0.5)] == [0, 1]


def test_the_parts_of_alpha_sum_to_one():
    for looks in ([50], [50, 75], BUDGET, LOOKS):
        spent = spending(looks)
        assert spent.sum() == pytest.approx(1)
        assert (spent > 0).all()
    for wrong in ([], [0, 1], [50, 50], [75, 50]):
        with pytest.raises(ValueError, match="increasing"):
            spending(wrong)


@pytest.mark.parametrize("looks", [BUDGET, LOOKS])
@pytest.mark.parametrize("share", [0.02, 0.1, 0.4, 0.5, 0.6, 0.95])
def test_it_seldom_ever_misses_where_a_peeked_wilson_interval_often_does(
    share: float, looks: list[int]
):
    k = paths(share, looks)
    assert ever(k, looks, misses(share, repeated_interval)) <= 0.05
    assert ever(k, looks, misses(share, lambda k, n, _: confidence_sequence(k, n))) <= 0.05
    peeked = ever(k, looks, misses(share, lambda k, n, _: proportion_confint(k, n, 0.05, "wilson")))
    assert peeked > (0.15 if len(looks) > 10 else 0.1)


@pytest.mark.parametrize("looks", [BUDGET, LOOKS])
def test_the_tests_errors_stay_below_alpha_at_all_looks_together(looks: list[int]):
    def beyond(k: np.ndarray, n: int, part: float) -> np.ndarray:
        return repeated_tests(k, n, 0.4, 0.6, part)[0] <= 0.05

    def within(k: np.ndarray, n: int, part: float) -> np.ndarray:
        return repeated_tests(k, n, 0.4, 0.6, part)[1] <= 0.05

    for share in (0.4, 0.5, 0.6):  # both ends of the margin, and the reference
        assert ever(paths(share, looks), looks, beyond) <= 0.05
    for share in (0.4, 0.6):
        assert ever(paths(share, looks), looks, within) <= 0.05
    # The same test, peeked at. At an end of the margin a look errs in 2.5%: one side of two.
    peeked = ever(paths(0.6, looks), looks, lambda k, n, _: beyond(k, n, 1.0))
    assert peeked > (0.08 if len(looks) > 10 else 0.05)


def test_a_test_says_beyond_where_its_interval_lies_beyond():
    k = np.arange(101)
    low, high = repeated_interval(k, 100, 0.1)
    beyond, within = repeated_tests(k, 100, 0.4, 0.6, 0.1)
    assert ((beyond <= 0.05) == ((low > 0.6) | (high < 0.4))).all()
    assert (within[(low > 0.4) & (high < 0.6)] <= 0.05).all()
    assert not ((within <= 0.05) & (beyond <= 0.05)).any()
    known = binomtest(70, 100, 0.6, "greater").pvalue
    assert beyond[70] == pytest.approx(min(1, 2 * known / 0.1))


def test_a_margin_that_reaches_beyond_nothing_or_everything_needs_no_test_there():
    beyond, within = repeated_tests([0, 30], 50, -0.05, 0.15, 1.0)
    assert beyond[0] == 1 and within[0] == pytest.approx(0.85**50)
    assert beyond[1] < 1e-9 and within[1] == pytest.approx(1)
    with pytest.raises(ValueError, match="must not pass"):
        repeated_tests(1, 2, 0.6, 0.4, 1.0)


def test_up_to_a_budget_it_decides_what_the_sequence_for_ever_leaves_open():
    n, spent = np.array(BUDGET), spending(BUDGET)
    k = paths(0.7, BUDGET)
    declared = (repeated_interval(k, n, spent)[0] > 0.6).any(axis=1).mean()
    for_ever = (confidence_sequence(k, n)[0] > 0.6).any(axis=1).mean()
    assert declared > 0.7 and for_ever < 0.45
    k = paths(0.5, BUDGET)
    declared = (repeated_tests(k, n, 0.4, 0.6, spent)[1] <= 0.05).any(axis=1).mean()
    low, high = confidence_sequence(k, n)
    assert declared > 0.5 and not ((low > 0.4) & (high < 0.6)).any()
