from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics

from audit.statistics import auc, average_precision, precision_recall_curve, roc_curve


@pytest.fixture(scope="module")
def drawn() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    labels = rng.random(300) < 0.3
    return rng.normal(labels * 1.2, 1.0).round(1), labels  # rounded: many ties


def test_curves_are_those_of_sklearn(drawn):
    scores, labels = drawn
    for ours, theirs in zip(
        roc_curve(scores, labels),
        metrics.roc_curve(labels, scores, drop_intermediate=False),
        strict=True,
    ):
        assert ours == pytest.approx(theirs)
    precision, recall, thresholds = precision_recall_curve(scores, labels)
    theirs = metrics.precision_recall_curve(labels, scores)
    # sklearn has the lowest threshold first and ends with (1, 0).
    assert precision == pytest.approx(theirs[0][-2::-1])
    assert recall == pytest.approx(theirs[1][-2::-1])
    assert thresholds == pytest.approx(theirs[2][::-1])


def test_areas_are_those_of_sklearn(drawn):
    scores, labels = drawn
    average, (low, high) = average_precision(scores, labels)
    assert average == pytest.approx(metrics.average_precision_score(labels, scores))
    assert low < average < high
    fpr, tpr, _ = roc_curve(scores, labels)
    assert np.trapezoid(tpr, fpr) == pytest.approx(auc(scores, labels)[0])


def test_the_interval_of_average_precision_covers():
    rng = np.random.default_rng(0)
    # The truth by one very large sample of the same mixture, a fifth of it positive.
    labels = np.repeat([0, 1], [160_000, 40_000])
    truth = metrics.average_precision_score(labels, rng.normal(labels * 1.5, 1))
    labels = np.repeat([0, 1], [120, 30])
    covered = []
    for seed in range(250):
        _, (low, high) = average_precision(
            rng.normal(labels * 1.5, 1), labels, draws=250, seed=seed
        )
        covered.append(low <= truth <= high)
    assert 0.90 <= np.mean(covered) <= 0.98


def test_images_of_a_prompt_are_resampled_together():
    rng = np.random.default_rng(1)
    prompts = np.repeat(np.arange(12), 25)
    labels = np.repeat(np.arange(12) % 3 == 0, 25)
    scores = rng.normal(labels, 0.1) + rng.normal(0, 1, 12)[prompts]
    plain, clustered = (average_precision(scores, labels, c)[1] for c in (None, prompts))
    assert clustered[1] - clustered[0] > 2 * (plain[1] - plain[0])
    assert np.isnan(average_precision([1, 2], [1, 0])[1]).all()


def test_one_class_has_no_curve():
    with pytest.raises(ValueError, match="positives and negatives"):
        roc_curve([0.1, 0.2], [1, 1])
    with pytest.raises(ValueError, match="no label is positive"):
        precision_recall_curve([0.1, 0.2], [0, 0])
    with pytest.raises(ValueError, match="2 scores but 1 labels"):
        average_precision([0.1, 0.2], [1])
