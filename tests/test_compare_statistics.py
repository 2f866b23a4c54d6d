"""Differences between two runs: against independent implementations, and on simulated nulls."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats
from statsmodels.stats.proportion import confint_proportions_2indep

from audit.compare.differences import Reading, of_estimates, of_readings, tango_difference
from audit.statistics import benjamini_hochberg, two_way_mean, wilson
from audit.statistics.equivalence import equivalence_of_pairs


def reading(values: np.ndarray, *, first_seed: int = 0, binary: bool = False) -> Reading:
    """Of a table prompts × seeds."""
    prompts = np.repeat([f"p{i}" for i in range(len(values))], values.shape[1]).astype(object)
    seeds = np.tile(np.arange(values.shape[1]) + first_seed, len(values))
    weights = np.full(values.size, 1 / values.size)
    return Reading(values.ravel().astype(float), weights, prompts, prompts, seeds, binary)


SCORES = np.random.default_rng(5).normal(size=(2, 6, 3))


def test_complete_pairs_give_students_test_on_the_prompts_mean_differences():
    found = of_readings(reading(SCORES[0]), reading(SCORES[1]))
    expected = stats.ttest_1samp((SCORES[1] - SCORES[0]).mean(axis=1), 0.0)
    assert found.estimate == pytest.approx((SCORES[1] - SCORES[0]).mean())
    assert found.ci == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert found.p_beyond() == pytest.approx(expected.pvalue)
    assert found.pairs == 18 and "paired by prompt and seed" in found.method


def test_incomplete_pairs_give_the_cluster_robust_regression_on_the_run():
    first, second = reading(SCORES[0]), reading(SCORES[1])
    kept = np.arange(18) != 4
    second = Reading(
        second.values[kept], np.full(17, 1 / 17), second.clusters[kept], second.prompts[kept],
        second.seeds[kept], False,
    )  # fmt: skip
    found = of_readings(first, second)
    y = np.concatenate([first.values, second.values])
    x = sm.add_constant(np.repeat([0.0, 1.0], [18, 17]))
    groups = np.unique([*first.clusters, *second.clusters], return_inverse=True)[1]
    fit = sm.OLS(y, x).fit(cov_type="cluster", cov_kwds={"groups": groups}, use_t=True)
    small_sample = np.sqrt((35 - 1) / (35 - 2))  # statsmodels' second factor
    half = (found.ci[1] - found.ci[0]) / 2
    assert found.estimate == pytest.approx(fit.params[1])
    assert half == pytest.approx(stats.t.ppf(0.975, 5) * fit.bse[1] / small_sample)


def test_many_common_seeds_give_the_two_way_interval_of_the_differences():
    table = np.random.default_rng(1).normal(size=(2, 9, 10)) + np.linspace(-2, 2, 10)
    found = of_readings(reading(table[0]), reading(table[1]))
    one = reading(table[0])
    mean, ci = two_way_mean((table[1] - table[0]).ravel(), one.prompts, one.seeds)
    assert (found.estimate, *found.ci) == pytest.approx((mean, *ci))


def test_one_prompt_of_a_binary_outcome_is_no_narrower_than_tango():
    a, b = np.array([[1] * 20 + [0] * 20]), np.array([[1] * 12 + [0] * 28])
    found = of_readings(reading(a, binary=True), reading(b, binary=True))
    alone = tango_difference(a[0], b[0])
    reference = equivalence_of_pairs(b[0], a[0], margin=0.05)
    assert alone.ci == pytest.approx(reference.ci)
    assert alone.p_beyond(0.05) == pytest.approx(reference.p_beyond)
    assert found.ci[0] <= alone.ci[0] and found.ci[1] >= alone.ci[1]


def test_two_wilson_intervals_give_newcombes():
    found = of_estimates(15 / 40, wilson(15, 40), 31 / 50, wilson(31, 50))
    expected = confint_proportions_2indep(31, 50, 15, 40, method="newcomb", compare="diff")
    assert found.ci == pytest.approx(expected, abs=1e-9)


def test_normal_intervals_give_the_normal_test_of_a_difference():
    sides = [(0.2, 0.04), (0.35, 0.05)]
    bounds = [(m - 1.959964 * s, m + 1.959964 * s) for m, s in sides]
    found = of_estimates(sides[0][0], bounds[0], sides[1][0], bounds[1])
    z = 0.15 / np.hypot(0.04, 0.05)
    assert found.p_beyond() == pytest.approx(2 * stats.norm.sf(z), abs=1e-6)
    assert found.p_beyond(0.1) == pytest.approx(2 * stats.norm.sf(0.05 / 0.15 * z), abs=1e-6)


@pytest.mark.parametrize("margin", [0.0, 0.05, 0.3])
def test_a_p_value_is_below_alpha_exactly_where_the_interval_lies_beyond_the_margin(margin: float):
    rng = np.random.default_rng(2)
    for _ in range(25):
        a, b = rng.random((2, 5, 3)) < rng.random((2, 1, 1))
        for found in (
            of_readings(reading(a, binary=True), reading(b, binary=True)),
            of_estimates(a.mean(), wilson(a.sum(), 15), b.mean(), wilson(b.sum(), 15)),
        ):
            beyond = found.ci[0] > margin or found.ci[1] < -margin
            assert (found.p_beyond(margin) < 0.05) == beyond


@pytest.mark.parametrize("binary", [True, False])
def test_the_same_run_twice_differs_in_nothing(binary: bool):
    same = reading((SCORES[0] > 0) if binary else SCORES[0], binary=binary)
    found = of_readings(same, same)
    assert found.estimate == 0.0 and found.p_beyond() == 1.0
    assert found.ci[0] <= 0.0 <= found.ci[1]
    assert (found.ci[1] - found.ci[0] > 0.1) == binary  # no event is no proof of no change


def test_hardly_an_event_without_pairs_is_not_taken_for_certainty():
    none = np.zeros((6, 4), dtype=bool)
    found = of_readings(reading(none, binary=True), reading(none, binary=True, first_seed=9))
    assert found.pairs == 0 and found.ci[1] > 0.1 and "other seeds" in found.method


def test_a_single_image_a_run_gives_no_interval():
    assert of_readings(reading(SCORES[0][:1, :1]), reading(SCORES[1][:1, :1])) is None
    assert of_readings(reading(SCORES[0][:, :1]), reading(SCORES[1][:, :1], first_seed=7)) is None


def simulated(
    rng: np.random.Generator, prompts: int, seeds: int, common: bool, effect: float = 0.0
) -> tuple[Reading, Reading]:
    """Two runs of one model: effects of prompts, seeds and pairs, and noise of each image."""
    base = rng.normal(0, 1.0, (prompts, 1))
    noise = [(rng.normal(0, 0.5, (1, seeds)), rng.normal(0, 0.7, (prompts, seeds)))] * 2
    if not common:
        noise[1] = (rng.normal(0, 0.5, (1, seeds)), rng.normal(0, 0.7, (prompts, seeds)))
    latent = [base + s + c + rng.normal(size=(prompts, seeds)) for s, c in noise]
    return (
        reading(latent[0] > 0, binary=True),
        reading(latent[1] + effect > 0, binary=True, first_seed=0 if common else 1000),
    )


@pytest.mark.parametrize(
    ("prompts", "seeds", "common"), [(12, 4, True), (12, 8, False), (1, 30, True)]
)
def test_unchanged_models_are_flagged_at_most_at_the_nominal_rate(
    prompts: int, seeds: int, common: bool
):
    rng, comparisons, findings = np.random.default_rng(7), 60, 5
    flagged, alone = 0, 0
    for _ in range(comparisons):
        p = [
            found.p_beyond()
            for _ in range(findings)
            if (found := of_readings(*simulated(rng, prompts, seeds, common))) is not None
        ]
        alone += sum(value <= 0.05 for value in p)
        flagged += bool((benjamini_hochberg(p) <= 0.05).any())
    # 3 standard errors above the nominal 5%.
    assert flagged / comparisons <= 0.05 + 3 * (0.05 * 0.95 / comparisons) ** 0.5
    assert alone / (comparisons * findings) <= 0.05 + 3 * (0.05 * 0.95 / 300) ** 0.5
    assert alone > 0  # a test that never flags would pass as well


def test_a_planted_change_is_covered_and_pairs_make_its_interval_narrower():
    rng = np.random.default_rng(3)
    covered, widths = 0, {True: [], False: []}
    truth = np.mean([
        (lambda one, other: other.mean - one.mean)(*simulated(rng, 12, 4, True, 1.0))
        for _ in range(400)
    ])  # fmt: skip
    for _ in range(60):
        for common in (True, False):
            found = of_readings(*simulated(rng, 12, 4, common, 1.0))
            widths[common].append(found.ci[1] - found.ci[0])
            covered += common and found.ci[0] <= truth <= found.ci[1]
    assert truth == pytest.approx(0.25, abs=0.05)
    assert covered >= 52  # of 60, 95% each: fewer has probability 0.1%
    assert np.mean(widths[True]) < 0.8 * np.mean(widths[False])
