"""Intervals for one proportion."""

from __future__ import annotations

import math

from scipy.special import betaincinv

from ._checks import normal_quantile


def wilson(successes: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """The score interval of Wilson (1927), without continuity correction.

    centre ± z/(1 + z²/n) · √(p̂(1 − p̂)/n + z²/4n²), centre = (p̂ + z²/2n)/(1 + z²/n)

    Args:
        successes, n: counts; fractions where n is an effective sample size.

    Returns:
        (low, high), both in [0, 1]; (0, 1) when n is 0: nothing is known.

    >>> low, high = wilson(8, 10)
    >>> round(low, 4), round(high, 4)
    (0.4902, 0.9433)
    """
    _check(successes, n)
    if n == 0:
        return (0.0, 1.0)
    z = normal_quantile(level)
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return (low, high)


def clopper_pearson(successes: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """The exact interval of Clopper and Pearson (1934): coverage is never below `level`.

    low = B(α/2; k, n − k + 1), high = B(1 − α/2; k + 1, n − k), quantiles of the beta distribution.
    For clustered data give p̂ n* of an effective sample size n* (Korn and Graubard 1998).

    >>> low, high = clopper_pearson(0, 10)
    >>> low, round(high, 4)
    (0.0, 0.3085)
    """
    _check(successes, n)
    alpha = 1 - level
    k = successes
    low = 0.0 if k == 0 else float(betaincinv(k, n - k + 1, alpha / 2))
    high = 1.0 if k == n else float(betaincinv(k + 1, n - k, 1 - alpha / 2))
    return (low, high)


def _check(successes: float, n: float) -> None:
    if not 0 <= successes <= n:
        raise ValueError(f"successes must lie in 0…n, not {successes} of {n}")
