"""What a score does at every threshold."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._checks import (
    UNKNOWN,
    Floats,
    Interval,
    binary,
    finite,
    group_index,
    percentile_interval,
    resampled_counts,
)


def roc_curve(scores: ArrayLike, labels: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """False- and true-positive rate with ``score >= threshold`` called positive.

    One point for each distinct score, from (0, 0) at threshold ∞ on. The area and its interval are
    `ranking.auc`.

    Args:
        scores: shape (N,), higher means more likely positive.
        labels: shape (N,), 0 or 1; both must be there.

    >>> fpr, tpr, thresholds = roc_curve([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1])
    >>> fpr.tolist(), tpr.tolist()
    ([0.0, 0.0, 0.5, 0.5, 1.0], [0.0, 0.5, 0.5, 1.0, 1.0])
    """
    s, y = _scored(scores, labels)
    if y.all():
        raise ValueError("a ROC curve needs positives and negatives")
    thresholds, true, all_called = _at_thresholds(s, y)
    start = np.zeros(1)
    return (
        np.r_[start, (all_called - true) / (~y).sum()],
        np.r_[start, true / y.sum()],
        np.r_[np.inf, thresholds],
    )


def precision_recall_curve(scores: ArrayLike, labels: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """Precision and recall with ``score >= threshold`` called positive, highest threshold first.

    >>> precision, recall, _ = precision_recall_curve([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1])
    >>> precision.round(2).tolist(), recall.tolist()
    ([1.0, 0.5, 0.67, 0.5], [0.5, 0.5, 1.0, 1.0])
    """
    s, y = _scored(scores, labels)
    thresholds, true, all_called = _at_thresholds(s, y)
    return true / all_called, true / y.sum(), thresholds


def average_precision(
    scores: ArrayLike,
    labels: ArrayLike,
    clusters: ArrayLike | None = None,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[float, Interval]:
    """Σ (R_i − R_{i−1}) P_i over distinct scores, with a percentile bootstrap interval.

    The share of positives is its value for a useless score: state it beside. Positives and
    negatives are resampled apart, since their numbers were chosen; with clusters, the prompts are
    (Boyd, Eng and Page 2013 compare intervals).

    Args:
        scores: shape (N,); labels: shape (N,), 0 or 1.
        clusters: shape (N,), the prompt of each image.

    Returns:
        estimate, (low, high); (nan, nan) with fewer than two positives or clusters.

    >>> round(average_precision([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1])[0], 4)
    0.8333
    """
    s, y = _scored(scores, labels)
    order = np.argsort(-s, kind="stable")
    last = np.r_[np.flatnonzero(np.diff(s[order])), len(s) - 1]
    positive = y[order].astype(float)

    def precisions(weights: Floats) -> Floats:
        """Average precision of B weightings of the ordered images, shape (B, N)."""
        called = weights.cumsum(axis=1)[:, last]
        true = (weights * positive).cumsum(axis=1)[:, last]
        precision = np.divide(true, called, out=np.zeros_like(true), where=called > 0)
        total: Floats = (np.diff(true, axis=1, prepend=0) * precision).sum(axis=1)
        found = true[:, -1]
        mean: Floats = np.divide(total, found, out=np.full(len(total), np.nan), where=found > 0)
        return mean

    estimate = float(precisions(np.ones((1, len(s))))[0])
    rng = np.random.default_rng(seed)
    if clusters is None:
        if y.sum() < 2:
            return estimate, UNKNOWN
        weights = np.zeros((draws, len(s)))
        for members in (np.flatnonzero(y), np.flatnonzero(~y)):
            if size := len(members):
                weights[:, members] = resampled_counts(size, draws, rng)
    else:
        index = group_index(clusters, len(s), "clusters")
        size = int(index.max()) + 1
        if size < 2:
            return estimate, UNKNOWN
        weights = resampled_counts(size, draws, rng)[:, index]
    resampled = precisions(weights[:, order])
    return estimate, percentile_interval(resampled[np.isfinite(resampled)], level)


def _scored(scores: ArrayLike, labels: ArrayLike) -> tuple[Floats, NDArray[np.bool_]]:
    s, y = finite(scores, "scores"), binary(labels)
    if s.shape != y.shape:
        raise ValueError(f"{len(s)} scores but {len(y)} labels")
    if not y.any():
        raise ValueError("no label is positive")
    return s, y


def _at_thresholds(s: Floats, y: NDArray[np.bool_]) -> tuple[Floats, Floats, Floats]:
    """Distinct scores from the highest, with the positives and all images at or above each."""
    order = np.argsort(-s, kind="stable")
    last = np.r_[np.flatnonzero(np.diff(s[order])), len(s) - 1]
    return s[order][last], y[order].cumsum()[last].astype(float), last + 1.0
