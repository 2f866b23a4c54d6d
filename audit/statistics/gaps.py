"""Differences of two shares from counts: of independent samples, and within strata."""

from __future__ import annotations

from math import sqrt

import numpy as np
from numpy.typing import ArrayLike

from ._checks import Floats, Interval
from .intervals import wilson


def newcombe(p: float, first: Interval, q: float, second: Interval) -> Interval:
    """Limits of p − q of independent samples from those of p and of q (Newcombe 1998, method 10).

    Args:
        first, second: intervals of p and q, such as Wilson's.

    >>> low, high = newcombe(0.5, (0.3, 0.7), 0.5, (0.3, 0.7))
    >>> round(low, 3), round(high, 3)
    (-0.283, 0.283)
    """
    down, up = p - first[0], first[1] - p
    down2, up2 = q - second[0], second[1] - q
    low, high = p - q - sqrt(down**2 + up2**2), p - q + sqrt(up**2 + down2**2)
    return max(-1.0, low), min(1.0, high)


def stratified_shares(
    a: ArrayLike, n: ArrayLike, c: ArrayLike, m: ArrayLike, level: float = 0.95
) -> tuple[float, float, Interval]:
    """Two shares weighted alike over strata, and the limits of their difference.

    Weights are Mantel and Haenszel's, w_k = n_k m_k/(n_k + m_k); the limits are
    :func:`newcombe`'s of stratified Wilson limits (after Yan and Su 2010).

    Args:
        a, n: shape (K,), events and images of the first group in each stratum; c, m: the second's.
            No stratum lacks either group.

    >>> p, q, (low, high) = stratified_shares([3], [3], [0], [3])
    >>> p, q, round(low, 3), high
    (1.0, 0.0, 0.206, 1.0)
    """
    a, n, c, m = (np.asarray(counts, dtype=float) for counts in (a, n, c, m))
    w = n * m / (n + m)
    w = w / w.sum()
    p, q = float((w * a / n).sum()), float((w * c / m).sum())
    return p, q, newcombe(p, _standardised(p, n, w, level), q, _standardised(q, m, w, level))


def _standardised(p: float, n: Floats, w: Floats, level: float) -> Interval:
    """Wilson's limits of Σ w_k p_k, on the size of one sample with the same variance."""
    # The rates within strata are taken as their mean: p_k(1 − p_k) is 0 in most small strata.
    effective = 1 / float((w**2 / n).sum())
    low, high = wilson(p * effective, effective, level)
    return min(low, p), max(high, p)
