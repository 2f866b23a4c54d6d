from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, binomtest
from statsmodels.stats.power import NormalIndPower
from statsmodels.stats.proportion import proportion_effectsize

from audit.statistics import (
    equivalence_of_proportion,
    images_for_equivalence,
    images_needed,
    images_per_arm,
    pairs_needed,
    power_of_proportion,
)


@pytest.mark.parametrize(
    ("difference", "images"), [(0.05, 786), (0.10, 199), (0.15, 90), (0.20, 49), (0.30, 20)]
)
def test_images_to_find_a_difference_from_parity(difference: float, images: int):
    assert images_needed(difference) == images_needed(-difference) == images


@pytest.mark.parametrize(("n", "share", "reference"), [(30, 0.7, 0.5), (80, 0.2, 0.5)])
def test_the_power_is_the_sum_over_outcomes_that_scipys_test_rejects(
    n: int, share: float, reference: float
):
    rejected = [k for k in range(n + 1) if binomtest(k, n, reference).pvalue <= 0.05]
    assert power_of_proportion(n, share, reference) == pytest.approx(
        binom.pmf(rejected, n, share).sum()
    )


def test_the_test_that_is_planned_holds_its_level():
    for reference in (0.03, 0.3, 0.468, 0.9):
        assert (power_of_proportion(np.arange(1, 300), reference, reference) <= 0.05).all()


@pytest.mark.parametrize(("margin", "reference"), [(0.1, 0.5), (0.15, 0.3), (0.1, 0.05)])
def test_images_to_show_equivalence(margin: float, reference: float):
    def power(n: int) -> float:
        shown = [
            k
            for k in range(n + 1)
            if equivalence_of_proportion(k, n, margin, reference).verdict == "equivalent"
        ]
        return float(binom.pmf(shown, n, reference).sum())

    n = images_for_equivalence(margin, reference)
    assert power(n) >= 0.8 > power(n - 1)


def test_pairs_and_arms():
    # Published, rounded: 233 pairs at 30% discordance, 115 at 15%, 387 an arm unpaired.
    assert pairs_needed(0.1, 0.3) == pytest.approx(233, abs=1)
    assert pairs_needed(0.1, 0.15) == pytest.approx(115, abs=1)
    assert images_per_arm(0.5, 0.4) == pytest.approx(387, abs=1)
    effect = proportion_effectsize(0.5, 0.4)
    assert images_per_arm(0.5, 0.4) == pytest.approx(
        NormalIndPower().solve_power(effect, alpha=0.05, power=0.8), rel=0.01
    )


def test_pairs_found_by_mcnemar_as_often_as_planned():
    rng = np.random.default_rng(0)
    n = pairs_needed(0.1, 0.3)
    counts = rng.multinomial(n, [0.2, 0.1, 0.7], 20_000)
    z = (counts[:, 0] - counts[:, 1]) / np.sqrt(counts[:, 0] + counts[:, 1])
    assert np.mean(np.abs(z) > 1.959964) == pytest.approx(0.8, abs=0.015)


def test_what_cannot_be_planned_is_refused():
    for impossible in (
        lambda: images_needed(0),
        lambda: images_needed(0.6),
        lambda: pairs_needed(0.3, 0.2),
        lambda: images_per_arm(0.5, 0.5),
        lambda: images_for_equivalence(0.0),
        lambda: images_for_equivalence(0.001),
    ):
        with pytest.raises(ValueError, match=r"planned|needs 0|differ|more than"):
            impossible()
