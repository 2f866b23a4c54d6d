from __future__ import annotations

import pytest
from scipy.integrate import quad
from scipy.stats import beta, binom

from audit.statistics import clopper_pearson, confidence_sequence


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
