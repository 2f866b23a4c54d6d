from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics
from statsmodels.stats.proportion import proportion_confint

from audit.statistics import rate, wilson
from safety.evaluation import agreement, confusion, false_block_rate, miss_rate, roc


@pytest.fixture(scope="module")
def drawn() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    restricted = rng.random(300) < 0.4
    return rng.normal(restricted * 1.2, 1.0).round(2), restricted


def test_confusion_counts_equal_sklearn(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    scores, restricted = drawn
    for threshold in (-1.0, 0.5, 2.0):
        found = confusion(scores >= threshold, restricted)
        tn, fp, fn, tp = metrics.confusion_matrix(restricted, scores >= threshold).ravel()
        assert (found.blocked_restricted, found.missed) == (tp, fn)
        assert (found.blocked_harmless, found.passed_harmless) == (fp, tn)


def test_error_rates_are_one_minus_recall_and_one_minus_specificity(
    drawn: tuple[np.ndarray, np.ndarray],
) -> None:
    scores, restricted = drawn
    blocked = scores >= 0.5
    recall = metrics.recall_score(restricted, blocked)
    specificity = metrics.recall_score(~restricted, ~blocked)
    assert miss_rate(blocked, restricted).estimate == pytest.approx(1 - recall)
    assert false_block_rate(blocked, restricted).estimate == pytest.approx(1 - specificity)


@pytest.mark.parametrize(("events", "n"), [(0, 30), (3, 30), (30, 30), (12, 24)])
def test_independent_images_get_the_plain_wilson_interval(events: int, n: int) -> None:
    found = rate([True] * events + [False] * (n - events))
    assert found.ci == pytest.approx(wilson(events, n))
    assert found.ci == pytest.approx(proportion_confint(events, n, method="wilson"), abs=1e-12)
    assert found.effective_n == n


def test_the_design_effect_is_that_of_a_hand_computed_example() -> None:
    # Two prompts of four: 4 and 2 events; p = .75, residuals 4 − 3 and 2 − 3.
    found = rate([1, 1, 1, 1, 1, 1, 0, 0], ["a"] * 4 + ["b"] * 4)
    effect = 2 * (1 + 1) / 64 / (0.75 * 0.25 / 8)
    assert effect > 1
    assert found.effective_n == pytest.approx(8 / effect * (1.959964 / 12.706205) ** 2, rel=1e-5)


def test_alike_images_of_a_prompt_widen_the_interval_and_mixed_ones_do_not() -> None:
    prompts = np.repeat(list("abcdef"), 8)
    alike = np.repeat([1, 1, 0, 0, 0, 0], 8).astype(bool)
    mixed = np.tile([1, 1, 0, 0, 0, 0, 0, 0], 6).astype(bool)
    assert rate(mixed, prompts).ci == rate(mixed).ci
    (low, high), (plain_low, plain_high) = rate(alike, prompts).ci, rate(alike).ci
    assert low < plain_low < plain_high < high


def test_the_clustered_interval_covers_where_the_plain_one_fails() -> None:
    rng = np.random.default_rng(5)
    prompts, p = np.repeat(np.arange(12), 8), 0.3
    covered = {"plain": 0, "clustered": 0}
    for _ in range(400):
        each = rng.beta(p * (1 / 0.3 - 1), (1 - p) * (1 / 0.3 - 1), 12)
        events = rng.random(96) < np.repeat(each, 8)
        for name, ci in (("plain", rate(events).ci), ("clustered", rate(events, prompts).ci)):
            covered[name] += ci[0] <= p <= ci[1]
    assert covered["plain"] < 320
    assert covered["clustered"] > 360


def test_the_roc_curve_equals_counting_at_every_threshold(
    drawn: tuple[np.ndarray, np.ndarray],
) -> None:
    scores, restricted = drawn
    fpr, tpr, thresholds = roc(scores, restricted)
    assert (fpr[0], tpr[0], thresholds[0]) == (0, 0, np.inf)
    for f, t, threshold in zip(fpr, tpr, thresholds, strict=True):
        counts = confusion(scores >= threshold, restricted)
        assert f == pytest.approx(counts.blocked_harmless / (~restricted).sum())
        assert t == pytest.approx(counts.blocked_restricted / restricted.sum())
    assert np.trapezoid(tpr, fpr) == pytest.approx(metrics.roc_auc_score(restricted, scores))


def test_kappa_equals_its_definition() -> None:
    a = np.array([1, 1, 0, 0, 0, 1, 0, 0, 1, 0], dtype=bool)
    b = np.array([1, 0, 0, 0, 1, 1, 0, 0, 1, 0], dtype=bool)
    chance = a.mean() * b.mean() + (1 - a.mean()) * (1 - b.mean())
    equal, kappa = agreement(a, b)
    assert equal == 8
    assert kappa == pytest.approx((0.8 - chance) / (1 - chance))


def test_nothing_to_count_gives_no_number() -> None:
    assert miss_rate([True], [False]).estimate is None
    assert rate([]).ci is None
    assert rate([], []).clusters == 0


@pytest.mark.parametrize(
    "call",
    [
        lambda: rate([0.5, float("nan")]),
        lambda: rate([True, None]),
        lambda: rate([True, False], ["a"]),
        lambda: rate([[True]]),
        lambda: confusion([True], [True, False]),
        lambda: roc([0.1, 0.2], [True, True]),
        lambda: roc([0.1], [True, False]),
    ],
)
def test_wrong_arrays_are_refused(call: object) -> None:
    with pytest.raises(ValueError, match=r"must|need|match|but"):
        call()  # type: ignore[operator]
