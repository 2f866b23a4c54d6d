"""How many images a verdict takes."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binom, norm

from ._checks import Floats

Counts = NDArray[np.int64]
MOST_IMAGES = 100_000


def power_of_proportion(
    n: ArrayLike, share: float, reference: float = 0.5, alpha: float = 0.05
) -> Floats:
    """Chance that the exact binomial test finds `share` different from the reference.

    It rejects where either tail, P(X ≤ k) or P(X ≥ k) under the reference, is at most α/2: where
    Clopper and Pearson's interval leaves the reference out.

    >>> power_of_proportion([49, 100], 0.7).round(3).tolist()
    [0.81, 0.979]
    """
    size = np.asarray(n, dtype=int)
    for p, name in ((share, "share"), (reference, "reference")):
        if not 0 <= p <= 1:
            raise ValueError(f"{name} must lie in 0…1, not {p}")
    # The largest k with P(X ≤ k) ≤ α/2, and the smallest with P(X ≥ k) ≤ α/2.
    low = binom.ppf(alpha / 2, size, reference)
    low = np.where(binom.cdf(low, size, reference) <= alpha / 2, low, low - 1)
    high = binom.isf(alpha / 2, size, reference) + 1
    power: Floats = binom.cdf(low, size, share) + binom.sf(high - 1, size, share)
    return power


def images_needed(
    difference: float, reference: float = 0.5, power: float = 0.8, alpha: float = 0.05
) -> int:
    """Images with which the exact test finds ``reference + difference`` as often as `power`.

    The power of a discrete test goes up and down with n: this is the least n that reaches it.

    >>> [images_needed(d) for d in (0.1, 0.15, 0.2, 0.3)]
    [199, 90, 49, 20]
    """
    share = reference + difference
    if difference == 0 or not 0 <= share <= 1:
        raise ValueError(f"no test can be planned for {share:g} against {reference:g}")
    z = float(norm.ppf(1 - alpha / 2) + norm.ppf(power))
    guess = z**2 / (4 * difference**2)
    return _least(
        lambda n: power_of_proportion(n, share, reference, alpha), power, int(4 * guess) + 200
    )


def images_for_equivalence(
    margin: float, reference: float = 0.5, power: float = 0.8, alpha: float = 0.05
) -> int:
    """Images with which a share at the reference is shown to lie within ±margin.

    By `equivalence_of_proportion`: two exact one-sided tests at α. It takes more images than to
    find a difference of the same size, because both sides have to be excluded.

    >>> images_for_equivalence(0.1)
    214
    """
    low, high = reference - margin, reference + margin
    if margin <= 0 or (low <= 0 and high >= 1):
        raise ValueError(f"no equivalence can be planned within {reference:g} ± {margin:g}")
    z = float(norm.ppf(1 - alpha) + norm.ppf(0.5 + power / 2))

    def chance(n: Counts) -> Floats:
        # The least k with P(X ≥ k | low) < α and the largest with P(X ≤ k | high) < α.
        least = binom.isf(alpha, n, low) + 1 if low > 0 else np.zeros(len(n))
        most = binom.ppf(alpha, n, high) if high < 1 else n
        if high < 1:
            most = np.where(binom.cdf(most, n, high) < alpha, most, most - 1)
        gain: Floats = binom.cdf(most, n, reference) - binom.cdf(least - 1, n, reference)
        return np.where(most >= least, gain, 0.0)

    return _least(chance, power, int(z**2 / margin**2) + 200)


def pairs_needed(
    difference: float, discordance: float, power: float = 0.8, alpha: float = 0.05
) -> int:
    """Pairs with which McNemar's test finds a difference of two proportions.

    (z_{α/2} √ψ + z_β √(ψ − δ²))²/δ², ψ the share of pairs that differ (Connor 1987).

    >>> pairs_needed(0.1, 0.3), pairs_needed(0.1, 0.15)
    (234, 116)
    """
    if not 0 < abs(difference) <= discordance <= 1:
        raise ValueError("needs 0 < |difference| ≤ discordance ≤ 1")
    a, b = float(norm.ppf(1 - alpha / 2)), float(norm.ppf(power))
    root: float = a * discordance**0.5 + b * (discordance - difference**2) ** 0.5
    return math.ceil(root**2 / difference**2)


def images_per_arm(
    share: float, other_share: float, power: float = 0.8, alpha: float = 0.05
) -> int:
    """Images in each of two unpaired arms (Fleiss, Levin and Paik 2003, ch. 4).

    (z_{α/2} √(2p̄(1 − p̄)) + z_β √(p₁(1 − p₁) + p₂(1 − p₂)))²/(p₁ − p₂)²

    >>> images_per_arm(0.5, 0.4)
    388
    """
    for p in (share, other_share):
        if not 0 <= p <= 1:
            raise ValueError(f"a share must lie in 0…1, not {p}")
    if share == other_share:
        raise ValueError("the two shares must differ")
    a, b = float(norm.ppf(1 - alpha / 2)), float(norm.ppf(power))
    middle = (share + other_share) / 2
    apart = share * (1 - share) + other_share * (1 - other_share)
    root: float = a * (2 * middle * (1 - middle)) ** 0.5 + b * apart**0.5
    return math.ceil(root**2 / (share - other_share) ** 2)


def _least(chance: Callable[[Counts], Floats], power: float, most: int) -> int:
    if most > MOST_IMAGES:
        raise ValueError(f"more than {MOST_IMAGES:,} images may be needed: widen the difference")
    sizes = np.arange(1, most + 1)
    return int(sizes[np.argmax(chance(sizes) >= power)])
