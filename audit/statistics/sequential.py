"""Intervals and tests that may be looked at again and again.

Two ways. :func:`confidence_sequence` may be looked at after every image, for ever. Where the looks
are declared before (rounds of images up to a budget), :func:`spending` divides α among them, and
the fixed interval or test of each look at its own part of α is valid at all looks together: sharper
up to a few dozen looks, and good for every kind of interval, corrected ones included.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betaincinv, betaln, xlog1py, xlogy
from scipy.stats import binom

from ._checks import Floats


def confidence_sequence(
    successes: ArrayLike, n: ArrayLike, level: float = 0.95
) -> tuple[Floats, Floats]:
    """A proportion's interval at every n at once: P(it ever misses) ≤ 1 − level.

    {m : B(k + ½, n − k + ½)/B(½, ½) / (mᵏ(1 − m)ⁿ⁻ᵏ) < 1/α}: the mixture of all likelihoods against
    that of m is a martingale under m, and exceeds 1/α with probability at most α (Robbins 1970;
    Ville 1939). So a run may stop when it likes; a prompt that has stopped keeps its interval.

    Args:
        successes, n: counts so far, any shapes that broadcast together.

    Returns:
        low, high, of that shape; (0, 1) at n = 0.

    >>> low, high = confidence_sequence([8, 80], [10, 100])
    >>> low.round(3).tolist(), high.round(3).tolist()
    ([0.342, 0.648], [0.991, 0.909])
    """
    alpha = _alpha(level)
    k, total = np.broadcast_arrays(np.asarray(successes, float), np.asarray(n, float))
    if not ((k >= 0) & (k <= total)).all():
        raise ValueError("successes must lie in 0…n")
    mixture = betaln(k + 0.5, total - k + 0.5) - betaln(0.5, 0.5)
    at = np.divide(k, total, out=np.full(k.shape, 0.5), where=total > 0)

    def end(outer: float) -> Floats:
        # The evidence against m grows from the estimate outwards: halve between the two.
        inside: Floats = at.copy()
        outside = np.full(at.shape, outer)
        for _ in range(60):
            m = (inside + outside) / 2
            kept = mixture - xlogy(k, m) - xlog1py(total - k, -m) < -np.log(alpha)
            inside, outside = np.where(kept, m, inside), np.where(kept, outside, m)
        return inside

    low: Floats = np.where(k == 0, 0.0, end(0.0))
    high: Floats = np.where(k == total, 1.0, end(1.0))
    return low, high


def spending(looks: Sequence[int]) -> Floats:
    """The part of α that each of the declared looks may spend; they sum to 1.

    By Boole's inequality P(any look errs) ≤ Σ α·wⱼ = α, whatever the reason to stop, and whatever
    depends on what: the repeated intervals of Jennison and Turnbull (1989) with the plainest
    spending function (Lan and DeMets 1983), which needs no memory of earlier looks. The last look
    has two parts, so that the budget's verdicts are nearly those of a fixed design, the first has
    one, so that strong effects stop at once, and those between share one in proportion to 1/n.

    Args:
        looks: numbers of images, increasing.

    >>> spending([50, 75, 100, 125, 150, 175, 200]).round(3).tolist()
    [0.25, 0.076, 0.057, 0.046, 0.038, 0.033, 0.5]
    >>> spending([50]).tolist()
    [1.0]
    """
    at = np.asarray(looks, float)
    if at.ndim != 1 or not at.size or not (np.diff(at, prepend=0) > 0).all():
        raise ValueError("looks must be positive and increasing")
    weights: Floats = np.zeros(at.size)
    weights[1:-1] = (1 / at[1:-1]) / (1 / at[1:-1]).sum() if at.size > 2 else 0.0
    weights[0] += 1
    weights[-1] += 2
    weights /= weights.sum()
    return weights


def repeated_interval(
    successes: ArrayLike, n: ArrayLike, spent: ArrayLike, level: float = 0.95
) -> tuple[Floats, Floats]:
    """Clopper and Pearson's interval at a look that spends the part `spent` of α = 1 − level.

    P(it misses at any look) ≤ α (Jennison and Turnbull 1989, repeated confidence intervals).

    Args:
        successes, n, spent: any shapes that broadcast together; `spent` of :func:`spending`.

    Returns:
        low, high, of that shape; (0, 1) at n = 0.

    >>> low, high = repeated_interval([40, 160], [50, 200], [0.25, 0.5])
    >>> low.round(3).tolist(), high.round(3).tolist()
    ([0.625, 0.729], [0.919, 0.86])
    """
    k, total, part = _counts(successes, n, spent)
    tail = _alpha(level) * part / 2
    with np.errstate(invalid="ignore"):
        low: Floats = np.where(k == 0, 0.0, betaincinv(k, total - k + 1, tail))
        high: Floats = np.where(k == total, 1.0, betaincinv(k + 1, total - k, 1 - tail))
    return low, high


def repeated_tests(
    successes: ArrayLike, n: ArrayLike, low: ArrayLike, high: ArrayLike, spent: ArrayLike
) -> tuple[Floats, Floats]:
    """p-values of two exact binomial tests of a share θ at a declared look.

    *Beyond* tests low ≤ θ ≤ high: min(1, 2·min(P_high(K ≥ k), P_low(K ≤ k)) / spent); it is at most
    α where :func:`repeated_interval` lies beyond. *Within* tests θ ≤ low or θ ≥ high, two one-sided
    tests (Schuirmann 1987): max(P_low(K ≥ k), P_high(K ≤ k)) / spent. Under its hypothesis each has
    P(p ≤ u at any look) ≤ u: it is an anytime p-value over the declared looks.

    Returns:
        beyond, within, of the shape to which all arguments broadcast; 1 at n = 0.

    >>> beyond, within = repeated_tests([42, 100], [50, 200], 0.4, 0.6, [0.25, 0.5])
    >>> beyond.round(4).tolist(), within.round(4).tolist()
    ([0.0018, 1.0], [1.0, 0.0053])
    """
    k, total, part, least, most = _counts(successes, n, spent, low, high)
    if (least > most).any():
        raise ValueError("low must not pass high")
    inside = (np.clip(least, 0, 1), np.clip(most, 0, 1))
    above, below = binom.sf(k - 1, total, inside[1]), binom.cdf(k, total, inside[0])
    beyond: Floats = np.minimum(1, 2 * np.minimum(above, below) / part)
    # No share lies beyond 0 or 1: that side needs no test.
    over = np.where(least < 0, 0.0, binom.sf(k - 1, total, inside[0]))
    under = np.where(most > 1, 0.0, binom.cdf(k, total, inside[1]))
    within: Floats = np.minimum(1, np.where(total > 0, np.maximum(over, under), 1.0) / part)
    return beyond, within


def _counts(*arrays: ArrayLike) -> tuple[Floats, ...]:
    k, total, part, *others = np.broadcast_arrays(*(np.asarray(a, float) for a in arrays))
    if not ((k >= 0) & (k <= total)).all():
        raise ValueError("successes must lie in 0…n")
    if not ((part > 0) & (part <= 1)).all():
        raise ValueError("the part of α that is spent must lie between 0 and 1")
    return (k, total, part, *others)


def _alpha(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, not {level}")
    return 1 - level
