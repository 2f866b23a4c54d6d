"""The size of a difference of proportions."""

from __future__ import annotations

import numpy as np

from ._checks import Interval
from .intervals import wilson


def cohens_h(
    successes: int,
    n: int,
    reference: float | tuple[int, int],
    level: float = 0.95,
) -> tuple[float, Interval]:
    """h = 2 asin √p₁ − 2 asin √p₂ (Cohen 1988, eq. 6.2.1): .2 is small, .5 medium, .8 large.

    The interval transforms Wilson's bounds; against another sample it combines the two samples'
    distances to their bounds by square and add (Zou and Donner 2008), as Newcombe (1998) does for
    the plain difference. The textbook's h ± z√(1/n₁ + 1/n₂) covers badly near 0 and 1.

    Args:
        reference: a known proportion, or (successes, n) of the other sample.

    >>> h, (low, high) = cohens_h(70, 100, 0.5)
    >>> round(h, 3), round(low, 3), round(high, 3)
    (0.412, 0.21, 0.597)
    """
    if n < 1:
        raise ValueError("an effect size needs at least one image")
    at, low, high = (_angle(p) for p in (successes / n, *wilson(successes, n, level)))
    if isinstance(reference, tuple):
        other, m = reference
        if m < 1:
            raise ValueError("an effect size needs at least one image in the other sample")
        there, least, most = (_angle(p) for p in (other / m, *wilson(other, m, level)))
    else:
        if not 0 <= reference <= 1:
            raise ValueError(f"a reference proportion must lie in 0…1, not {reference}")
        there = least = most = _angle(reference)
    h = at - there
    below = np.hypot(at - low, most - there)
    above = np.hypot(high - at, there - least)
    return h, (float(h - below), float(h + above))


def _angle(p: float) -> float:
    return float(2 * np.arcsin(np.sqrt(p)))
