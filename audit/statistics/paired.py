"""Two binary outcomes of the same images' seeds: with an identity and without, one filter or two.

The mean of paired differences of a score is `clusters.paired_difference`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.stats import binom

from ._checks import Interval, binary, normal_quantile


def discordant(first: ArrayLike, second: ArrayLike) -> tuple[int, int, int]:
    """Pairs where only the first is true, where only the second is, and all pairs.

    >>> discordant([1, 1, 0, 0], [1, 0, 1, 0])
    (1, 1, 4)
    """
    a, b = binary(first, "first"), binary(second, "second")
    if a.shape != b.shape:
        raise ValueError(f"{len(a)} outcomes have no pair among {len(b)}")
    return int((a & ~b).sum()), int((~a & b).sum()), len(a)


def mcnemar(
    first: ArrayLike, second: ArrayLike, method: Literal["exact", "mid-p"] = "mid-p"
) -> float:
    """P-value of equal proportions in pairs (McNemar 1947).

    Under equality the b of b + c discordant pairs are binomial with ½: exact p = 2 P(X ≤ min),
    mid-p = that − P(X = min). The exact test is too careful with few pairs; mid-p nearly holds its
    level and is the recommended one (Fagerland, Lydersen and Laake 2013).

    Args:
        first, second: shape (N,), 0 or 1, the two outcomes of each pair.

    >>> round(mcnemar([1, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0], "exact"), 4)
    0.0625
    """
    b, c, _ = discordant(first, second)
    least, pairs = min(b, c), b + c
    if b == c:
        return 1.0
    p = 2 * float(binom.cdf(least, pairs, 0.5))
    return min(1.0, p - (float(binom.pmf(least, pairs, 0.5)) if method == "mid-p" else 0.0))


def paired_proportions(
    first: ArrayLike, second: ArrayLike, level: float = 0.95
) -> tuple[float, Interval]:
    """Difference of two proportions in pairs, with the score interval of Tango (1998).

    {δ : |b − c − nδ| ≤ z √(n(2q̂ + δ(1 − δ)))}, q̂ the likeliest share of pairs with only the
    second true, given δ: 2n q̂² + (−b − c + (2n − b + c)δ) q̂ − cδ(1 − δ) = 0.

    Args:
        first, second: shape (N,), 0 or 1, the two outcomes of each pair.

    >>> difference, (low, high) = paired_proportions([1] * 8 + [0] * 2, [1] * 5 + [0] * 5)
    >>> round(difference, 2), round(low, 3), round(high, 3)
    (0.3, -0.061, 0.603)
    """
    b, c, n = discordant(first, second)
    if n == 0:
        return float("nan"), (-1.0, 1.0)
    return (b - c) / n, tango(b, c, n, level)


def tango(b: float, c: float, n: float, level: float = 0.95) -> Interval:
    """Tango's interval from the counts, fractions where n is an effective size.

    See `paired_proportions`.

    >>> [round(bound, 4) for bound in tango(0, 0, 10)]
    [-0.2775, 0.2775]
    """
    z = normal_quantile(level)
    score = tango_score(b, c, n)
    at, edge = (b - c) / n, 1 - 1e-12
    low = -1.0 if c == n else brentq(lambda d: score(d) - z, -edge, at, xtol=1e-12)
    high = 1.0 if b == n else brentq(lambda d: score(d) + z, at, edge, xtol=1e-12)
    return float(low), float(high)


def tango_score(b: float, c: float, n: float) -> Callable[[float], float]:
    """The score statistic of a paired difference as a function of the δ under test."""

    def score(delta: float) -> float:
        linear = -b - c + (2 * n - b + c) * delta
        root = np.sqrt(linear**2 + 8 * n * c * delta * (1 - delta))
        q = (root - linear) / (4 * n)
        variance = n * (2 * q + delta * (1 - delta))
        gap = b - c - n * delta
        if variance <= 0:
            return 0.0 if gap == 0 else float(np.copysign(np.inf, gap))
        return float(gap / np.sqrt(variance))

    return score
