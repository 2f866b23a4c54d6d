from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar

from audit.statistics import mcnemar, paired_proportions
from audit.statistics.paired import discordant, tango


def pairs(both: int, first: int, second: int, neither: int) -> tuple[list[int], list[int]]:
    return (
        [1] * both + [1] * first + [0] * second + [0] * neither,
        [1] * both + [0] * first + [1] * second + [0] * neither,
    )


def test_a_published_table_of_21_pairs():
    # Fagerland, Lydersen and Laake 2013: airway hyper-responsiveness of 21 children.
    a, b = pairs(1, 1, 7, 12)
    assert mcnemar(a, b, "exact") == pytest.approx(0.0703, abs=5e-5)
    assert mcnemar(a, b, "mid-p") == pytest.approx(0.0391, abs=5e-5)
    difference, (low, high) = paired_proportions(a, b)
    assert difference == pytest.approx(-0.286, abs=5e-4)
    # The same authors, 2014: Tango's interval of these pairs.
    assert (low, high) == pytest.approx((-0.517, -0.026), abs=5e-4)


@pytest.mark.parametrize("counts", [(5, 9, 3, 10), (0, 6, 0, 4), (3, 0, 12, 5), (1, 4, 4, 1)])
def test_the_exact_test_is_that_of_statsmodels(counts: tuple[int, int, int, int]):
    a, b = pairs(*counts)
    table = np.array(counts).reshape(2, 2)
    assert mcnemar(a, b, "exact") == pytest.approx(statsmodels_mcnemar(table, exact=True).pvalue)


def likeliest_error(b: int, c: int, n: int, delta: float) -> float:
    """√Var of b − c under δ, the nuisance share found by maximising the likelihood."""

    def minus_log_likelihood(q: float) -> float:
        cells = np.array([q + delta, q, 1 - 2 * q - delta])
        return -float(np.array([b, c, n - b - c]) @ np.log(np.maximum(cells, 1e-300)))

    bounds = (max(0.0, -delta), (1 - delta) / 2)
    q = minimize_scalar(
        minus_log_likelihood, bounds=bounds, method="bounded", options={"xatol": 1e-12}
    ).x
    return float(np.sqrt(n * (2 * q + delta - delta**2)))


@pytest.mark.parametrize(("b", "c", "n"), [(9, 3, 27), (1, 7, 21), (2, 2, 50), (30, 11, 200)])
def test_tangos_bounds_solve_the_score_equation(b: int, c: int, n: int):
    for bound in tango(b, c, n):
        score = abs(b - c - n * bound) / likeliest_error(b, c, n, bound)
        assert score == pytest.approx(1.959964, abs=1e-4)


def test_extremes_stay_within_minus_one_and_one():
    assert tango(0, 10, 10)[0] == -1.0
    assert tango(10, 0, 10)[1] == 1.0
    assert 0.4 < tango(10, 0, 10)[0] < 0.8
    assert mcnemar([1, 0], [1, 0]) == 1.0
    assert paired_proportions([], [])[1] == (-1.0, 1.0)
    with pytest.raises(ValueError, match="no pair"):
        discordant([1, 0], [1])
    with pytest.raises(ValueError, match="0 or 1"):
        mcnemar([0.5], [1])
