from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from audit.statistics import manski_bounds, wilson


def test_without_missing_images_it_is_wilsons_interval():
    found = manski_bounds(30, 100, 0)
    assert found.bounds == (0.3, 0.3)
    assert found.ci == pytest.approx(wilson(30, 100))


def test_with_many_missing_images_each_end_is_one_sided():
    found = manski_bounds(300, 600, 400)
    assert found.bounds == (0.3, 0.7)
    assert found.ci[0] == pytest.approx(wilson(300, 1000, 0.9)[0])
    assert found.ci[1] == pytest.approx(wilson(700, 1000, 0.9)[1])
    assert found.ci_bounds == pytest.approx((wilson(300, 1000)[0], wilson(700, 1000)[1]))


def test_in_between_the_critical_value_is_imbens_and_manskis():
    found = manski_bounds(50, 98, 2)
    shift = np.sqrt(100) * 0.02 / np.sqrt(0.52 * 0.48 if 0.52 * 0.48 > 0.25 else 0.25)
    grid = np.linspace(1.6, 2, 400_001)
    critical = grid[np.argmin(np.abs(norm.cdf(grid + shift) - norm.cdf(-grid) - 0.95))]
    level = 2 * norm.cdf(critical) - 1
    assert 1.65 < critical < 1.95
    assert found.ci == pytest.approx((wilson(50, 100, level)[0], wilson(52, 100, level)[1]))


def test_extremes():
    assert manski_bounds(0, 0, 0).ci == (0.0, 1.0)
    assert manski_bounds(0, 0, 50).ci == (0.0, 1.0)
    assert manski_bounds(0, 50, 0).ci[0] == 0.0 < manski_bounds(0, 50, 0).ci[1]
    with pytest.raises(ValueError, match="not a count"):
        manski_bounds(5, 4, 0)
