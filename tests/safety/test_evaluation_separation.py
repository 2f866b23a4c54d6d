"""Figures of a score: known answers, other implementations, and intervals that cover."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm
from sklearn import metrics
from statsmodels.stats.proportion import proportion_confint

from audit.statistics import auc, tpr_at_fpr
from safety.evaluating.calibration import reliability
from safety.evaluating.inappropriate import expected_maximum, inappropriate
from safety.evaluating.separation import area, misses_at, precision_at
from safety.evaluating.thresholds import Costs, cost_at, operating_points, sweep
from safety.evaluation import confusion


@pytest.fixture(scope="module")
def drawn() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    restricted = rng.random(600) < 0.4
    return rng.normal(restricted * 1.2, 1.0).round(2), restricted


def test_the_clustered_area_equals_delong_where_every_image_is_its_own_prompt(
    drawn: tuple[np.ndarray, np.ndarray],
) -> None:
    scores, restricted = drawn
    found = area(scores, restricted, np.arange(600))
    assert found.estimate == pytest.approx(metrics.roc_auc_score(restricted, scores))
    # The same variance, but for I/(I − 1) and Student's quantile in place of the normal one.
    assert found.ci == pytest.approx(auc(scores, restricted)[1], abs=0.002)


def test_the_clustered_area_covers_where_the_plain_one_fails() -> None:
    rng = np.random.default_rng(8)
    prompts, restricted = np.repeat(np.arange(40), 8), np.repeat(np.arange(40) % 2 == 0, 8)
    truth = norm.cdf(1 / 2**0.5)
    covered = {"plain": 0, "clustered": 0}
    for _ in range(200):
        scores = restricted + rng.normal(0, 0.8, 40)[prompts] + rng.normal(0, 0.6, 320)
        for name, clusters in (("plain", None), ("clustered", prompts)):
            low, high = area(scores, restricted, clusters).ci
            covered[name] += low <= truth <= high
    assert covered["plain"] < 160
    assert covered["clustered"] >= 180


def test_misses_at_a_rate_equal_the_other_implementation(
    drawn: tuple[np.ndarray, np.ndarray],
) -> None:
    scores, restricted = drawn
    found, other = misses_at(scores, restricted, 0.01), tpr_at_fpr(scores, restricted, 0.01)
    assert found.threshold == other.threshold
    assert found.estimate == pytest.approx(1 - other.tpr)
    assert found.ci == pytest.approx((1 - other.ci[1], 1 - other.ci[0]), abs=0.02)
    assert (found.blocked_harmless, found.fpr_ci) == (other.false, other.fpr_ci)


@pytest.mark.parametrize(("harmless", "fpr", "supported"), [(98, 0.01, False), (99, 0.01, True)])
def test_a_rate_is_reported_from_the_sample_on_that_supports_it(
    harmless: int, fpr: float, supported: bool
) -> None:
    rng = np.random.default_rng(0)
    found = misses_at(rng.random(harmless + 20), np.arange(harmless + 20) >= harmless, fpr)
    assert found.supported is supported
    assert (found.estimate is not None) is supported
    assert found.smallest_fpr == pytest.approx(1 / (harmless + 1))
    assert found.harmless_needed == 99
    # No miss among 20: the exact upper limit.
    assert found.smallest_fnr == pytest.approx(proportion_confint(0, 20, method="beta")[1])


def test_the_miss_rate_at_a_rate_is_covered_by_its_interval() -> None:
    rng = np.random.default_rng(1)
    truth = norm.cdf(norm.ppf(0.99) - 2.97)  # at the threshold that 1% of all harmless exceed
    covered = 0
    for number in range(60):
        scores = np.r_[rng.normal(0, 1, 400), rng.normal(2.97, 1, 100)]
        found = misses_at(scores, np.arange(500) >= 400, 0.01, seed=number)
        assert found.ci is not None
        covered += found.ci[0] <= truth <= found.ci[1]
    assert covered >= 54


def test_precision_at_a_recall_equals_sklearn(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    scores, restricted = drawn
    precision, recall, _ = metrics.precision_recall_curve(restricted, scores)
    found = precision_at(scores, restricted, 0.9)
    assert found.estimate == pytest.approx(precision[recall >= 0.9][-1])
    assert found.ci[0] < found.estimate < found.ci[1]


def test_the_sweep_equals_counting_and_the_least_cost_is_the_least(
    drawn: tuple[np.ndarray, np.ndarray],
) -> None:
    scores, restricted = drawn
    costs = Costs(miss=5, block=1, prevalence=0.1)
    frame = sweep(scores, restricted, costs)
    for row in frame.iloc[1::20].to_dict("records"):
        counts = confusion(scores >= row["threshold"], restricted)
        fnr, fpr = counts.missed / restricted.sum(), counts.blocked_harmless / (~restricted).sum()
        assert (row["fnr"], row["fpr"]) == pytest.approx((fnr, fpr))
        assert row["cost"] == pytest.approx(0.1 * 5 * fnr + 0.9 * fpr)
    best = operating_points(scores, restricted, costs)["least_cost"]
    every = [cost_at(scores, restricted, t, costs)[0] for t in np.unique(scores)[::20]]
    assert cost_at(scores, restricted, best, costs)[0] <= min(every)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((-1, 1, 0.1), "costs are finite numbers, 0 or more"),
        ((0, 0, 0.1), "above 0"),
        ((1, 1, 1), "prevalence"),
    ],
)
def test_impossible_costs_are_refused(given: tuple[float, float, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Costs(*given)


def test_a_true_probability_is_calibrated_and_an_overconfident_one_is_not() -> None:
    rng = np.random.default_rng(5)
    accused = 0
    for _ in range(60):
        p = rng.beta(0.7, 1.5, 250)
        accused += reliability(p, rng.random(250) < p).p < 0.05
    assert accused <= 8
    truth = rng.random(400) < 0.5 + 0.3 * (p := rng.random(400) - 0.5)
    found = reliability((p > 0).astype(float), truth)
    assert found.p < 0.01
    assert found.ece > 3 * found.floor
    assert found.brier == pytest.approx(metrics.brier_score_loss(truth, (p > 0).astype(float)))
    assert found.curve["n"].sum() == 400


def test_the_expected_maximum_equals_drawing() -> None:
    rng = np.random.default_rng(2)
    shares = rng.beta(0.5, 2, 60).round(1)
    drawn = rng.choice(shares, (40_000, 25)).max(axis=1).mean()
    assert inappropriate(shares).expected_maximum == pytest.approx(drawn, abs=0.005)
    assert expected_maximum(np.array([[0.2, 0.6]]), 1) == pytest.approx(0.4)


def test_the_inappropriate_probability_is_covered_by_its_interval() -> None:
    rng = np.random.default_rng(4)
    covered = 0
    for _ in range(100):
        found = inappropriate(rng.binomial(10, rng.beta(1, 3, 80)) / 10)
        covered += found.probability_ci[0] <= 0.25 <= found.probability_ci[1]
    assert covered >= 88


@pytest.mark.parametrize(
    "call",
    [
        lambda: area([0.1, float("nan")], [0, 1]),
        lambda: area([0.1, 0.2], [1, 1]),
        lambda: area([0.1], [0, 1]),
        lambda: area([0.1, 0.2], [0, 1], ["a"]),
        lambda: misses_at([0.1, 0.2], [0, 1], 0),
        lambda: inappropriate([1.2]),
    ],
)
def test_wrong_arrays_are_refused(call: object) -> None:
    with pytest.raises(ValueError, match=r"must|needed|labels|clusters|between"):
        call()  # type: ignore[operator]
