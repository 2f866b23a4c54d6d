"""Intervals that respect how images cluster: by prompt first, not by image."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def cluster_bootstrap(
    values: ArrayLike,
    clusters: ArrayLike,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
    statistic: Callable[[Floats], Floats] | None = None,
) -> tuple[float, tuple[float, float]]:
    """The mean of the clusters' means, with a bootstrap-t interval over clusters.

    Prompts are drawn with replacement, for they, not the images, are the sample (Field and Welsh
    2007); every prompt has the same weight. The studentised bootstrap (Efron and Tibshirani 1993,
    ch. 12) is used because the percentile interval is too short for a dozen clusters.

    Args:
        values: shape (N,), one value per image.
        clusters: shape (N,), the prompt of each image.
        statistic: applied to each cluster's mean before averaging, such as ``|p − ½|``.

    Returns:
        estimate, (low, high); the interval is (nan, nan) for fewer than two clusters.

    >>> mean, (low, high) = cluster_bootstrap([0, 0, 1, 1, 1, 0], ["a", "a", "b", "b", "c", "c"])
    >>> mean, bool(low < mean < high)
    (0.5, True)
    """
    v = np.asarray(values, dtype=float)
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    means = np.bincount(index, weights=v) / np.bincount(index)
    if statistic is not None:
        means = statistic(means)
    return _bootstrap_t(means, level, draws, seed)


def paired_difference(
    values: ArrayLike,
    baseline: ArrayLike,
    clusters: ArrayLike,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
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
    return cluster_bootstrap(difference, clusters, level, draws, seed)


def _bootstrap_t(
    means: Floats, level: float, draws: int, seed: int
) -> tuple[float, tuple[float, float]]:
    count = len(means)
    centre = float(means.mean())
    if count < 2:
        return centre, (float("nan"), float("nan"))
    error = float(means.std(ddof=1)) / count**0.5
    if error < 1e-12:
        return centre, (centre, centre)
    resampled = means[np.random.default_rng(seed).integers(0, count, (draws, count))]
    errors = resampled.std(axis=1, ddof=1) / count**0.5
    usable = errors > 1e-3 * error
    t = (resampled.mean(axis=1)[usable] - centre) / errors[usable]
    low, high = np.quantile(t, [0.5 - level / 2, 0.5 + level / 2])
    return centre, (centre - float(high) * error, centre - float(low) * error)
