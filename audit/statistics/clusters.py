"""Means whose intervals respect how images cluster: by prompt first, not by image."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ._checks import student_quantile


def cluster_mean(
    values: ArrayLike, clusters: ArrayLike, level: float = 0.95
) -> tuple[float, tuple[float, float]]:
    """The mean of the clusters' means, with Student's interval over them.

    m̄ ± t(½ + level/2; k − 1) · s/√k: the prompts, not the images, are the sample, and every prompt
    has the same weight (Liang and Zeger 1986 for equal clusters). A bootstrap over a dozen prompts
    is no better, and its studentised form breaks down where prompts are all or nothing.

    Args:
        values: shape (N,), one value per image.
        clusters: shape (N,), the prompt of each image.

    Returns:
        estimate, (low, high); the interval is (nan, nan) for fewer than two clusters.

    >>> mean, (low, high) = cluster_mean([0, 0, 1, 1, 1, 0], ["a", "a", "b", "b", "c", "c"])
    >>> mean, round(low, 3), round(high, 3)
    (0.5, -0.742, 1.742)
    """
    v = np.asarray(values, dtype=float)
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    means = np.bincount(index, weights=v) / np.bincount(index)
    centre, count = float(means.mean()), len(means)
    if count < 2:
        return centre, (float("nan"), float("nan"))
    half = float(student_quantile(level, count - 1) * means.std(ddof=1) / count**0.5)
    return centre, (centre - half, centre + half)


def paired_difference(
    values: ArrayLike, baseline: ArrayLike, clusters: ArrayLike, level: float = 0.95
) -> tuple[float, tuple[float, float]]:
    """Mean of ``values − baseline`` over pairs that share prompt and seed, clustered by prompt.

    Args:
        values, baseline: shape (N,), the two images of each pair, in the same order.
        clusters: shape (N,), the prompt of each pair.

    >>> difference, ci = paired_difference([3, 4, 5, 4], [1, 2, 2, 3], ["a", "a", "b", "b"])
    >>> difference
    2.0
    """
    difference = np.asarray(values, dtype=float) - np.asarray(baseline, dtype=float)
    return cluster_mean(difference, clusters, level)
