from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t
from statsmodels.stats.proportion import proportion_confint

from audit.statistics import rate, wilson


@pytest.mark.parametrize(("events", "n"), [(0, 30), (3, 30), (30, 30), (12, 24)])
def test_independent_images_get_the_plain_wilson_interval(events: int, n: int):
    found = rate([True] * events + [False] * (n - events))
    assert found.ci == pytest.approx(wilson(events, n))
    assert found.effective_n == n


def test_the_design_effect_is_the_clustered_variance_over_the_simple_one():
    import statsmodels.api as sm

    rng = np.random.default_rng(0)
    prompts = rng.integers(0, 10, 120)
    events = rng.random(120) < rng.random(10)[prompts]
    fit = sm.OLS(events.astype(float), np.ones(120)).fit(
        cov_type="cluster", cov_kwds={"groups": prompts}
    )
    effect = fit.bse[0] ** 2 / (events.mean() * (1 - events.mean()) / 120)
    assert effect > 1
    effective = 120 / effect * (1.959964 / t.ppf(0.975, 9)) ** 2
    found = rate(events, prompts)
    assert found.effective_n == pytest.approx(effective, rel=1e-5)
    assert found.ci == pytest.approx(
        proportion_confint(events.mean() * effective, effective, method="wilson"), rel=1e-5
    )
    assert found.clusters == 10


def test_nothing_to_count_gives_no_number_and_missing_values_are_refused():
    assert rate([]).ci is None
    assert rate([], []).clusters == 0
    for wrong in (lambda: rate([0.5, np.nan]), lambda: rate([True, None]), lambda: rate([[True]])):
        with pytest.raises(ValueError, match="events must"):
            wrong()
    with pytest.raises(ValueError, match="2 values but 1 clusters"):
        rate([True, False], ["a"])
