"""Intervals that may be looked at after every image."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betaln, xlog1py, xlogy

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
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, not {level}")
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
            kept = mixture - xlogy(k, m) - xlog1py(total - k, -m) < -np.log(1 - level)
            inside, outside = np.where(kept, m, inside), np.where(kept, outside, m)
        return inside

    low: Floats = np.where(k == 0, 0.0, end(0.0))
    high: Floats = np.where(k == total, 1.0, end(1.0))
    return low, high
