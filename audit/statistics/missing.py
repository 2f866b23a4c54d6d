"""A share when some images have no outcome: no face, undetermined, blocked, failed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr

from ._checks import Interval, normal_quantile
from .intervals import wilson


@dataclass(frozen=True)
class Bounds:
    """What can be said without assuming anything about the missing images.

    Attributes:
        bounds: the share if none, and if all, of the missing images were positive.
        ci: covers the true share with probability `level`.
        ci_bounds: covers both bounds together.
    """

    bounds: Interval
    ci: Interval
    ci_bounds: Interval


def manski_bounds(successes: int, observed: int, missing: int, level: float = 0.95) -> Bounds:
    """Worst-case bounds k/n and (k + missing)/n, n = observed + missing (Manski 1989), in interval.

    A share between two bounds cannot be missed on both sides, so z is replaced by the c with
    Φ(c + √n Δ/max σ) − Φ(−c) = level, Δ the bounds' distance (Imbens and Manski 2004): 1.96
    without missing images, 1.64 with many. The ends are Wilson's at that c in place of their
    normal ones, which would have no width at 0 and 1.

    >>> found = manski_bounds(40, 80, 20)
    >>> found.bounds, [round(bound, 3) for bound in found.ci]
    ((0.4, 0.6), [0.323, 0.677])
    """
    if min(successes, observed, missing) < 0 or successes > observed:
        raise ValueError(f"{successes} of {observed}, {missing} missing: not a count of images")
    n = observed + missing
    if n == 0:
        return Bounds((0.0, 1.0), (0.0, 1.0), (0.0, 1.0))
    most = successes + missing
    low, high = successes / n, most / n
    spread = max(np.sqrt(p * (1 - p)) for p in (low, high))
    z = normal_quantile(level)
    one_sided = normal_quantile(2 * level - 1)
    if missing == 0:
        critical = z
    elif spread == 0:
        critical = one_sided
    else:
        shift = float(np.sqrt(n) * (high - low) / spread)
        critical = float(
            brentq(lambda c: ndtr(c + shift) - ndtr(-c) - level, one_sided - 1e-9, z + 1e-9)
        )
    at_critical = float(2 * ndtr(critical) - 1)
    ci, both = (
        (wilson(successes, n, each)[0], wilson(most, n, each)[1]) for each in (at_critical, level)
    )
    return Bounds((low, high), ci, both)
