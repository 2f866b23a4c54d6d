"""Does a model exaggerate the shares of a reference?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ._checks import UNKNOWN, Interval, finite, student_quantile


@dataclass(frozen=True)
class Amplification:
    """How the model's log-odds follow the reference's.

    Attributes:
        slope: 1 copies the reference, above 1 amplifies it, 0 ignores it, below 0 inverts it.
        ci: of the slope; (nan, nan) with fewer than four prompts.
        intercept: the model's log-odds where the reference is at parity.
        r: Pearson's correlation of the shares themselves.
        mean_gap: mean |share − reference|; it has a floor, see `divergence`.
        amplified: prompts on the reference's side of ½ and farther out.
        flipped: prompts on the other side of ½.
        prompts: number of prompts.
        mean_amplification: mean |share − ½| − |reference − ½| (Seshadri, Singh and Elazar 2023, The
            Bias Amplification Paradox): how much farther from parity, in shares. Where both lie
            near ½ few images make it seem larger.
    """

    slope: float
    ci: Interval
    intercept: float
    r: float
    mean_gap: float
    amplified: int
    flipped: int
    prompts: int
    mean_amplification: float


def amplification_slope(
    successes: ArrayLike, n: ArrayLike, reference: ArrayLike, level: float = 0.95
) -> Amplification:
    """Slope of the model's log-odds on the reference's over prompts, by least squares.

    log((k + ½)/(n − k + ½)) = a + b · log(r/(1 − r)) + error: Haldane and Anscombe's ½ keeps shares
    of 0 and 1 finite, and bounds log-odds by ±log(2n + 1), so that few images hide amplification.
    The errors' spread differs between prompts: HC3 (MacKinnon and White 1985; Long and Ervin 2000),
    Student's t with P − 2 degrees of freedom. Prompts are the sample, not images.

    Args:
        successes, n: shape (P,), counts for each prompt.
        reference: shape (P,), shares strictly between 0 and 1.

    >>> twice = amplification_slope([500, 800, 941], [1000] * 3, [0.5, 2 / 3, 0.8])
    >>> round(twice.slope, 1), twice.amplified, twice.flipped, round(twice.mean_amplification, 3)
    (2.0, 2, 0, 0.091)
    """
    k, total, r = finite(successes), finite(n, "n"), finite(reference, "reference")
    if not len(k) == len(total) == len(r):
        raise ValueError(f"{len(k)} counts, {len(total)} totals and {len(r)} references")
    if (k < 0).any() or (k > total).any() or (total < 1).any():
        raise ValueError("successes must lie in 0…n, and n must be at least 1")
    if ((r <= 0) | (r >= 1)).any():
        raise ValueError("a reference share must lie strictly between 0 and 1")
    x, y = np.log(r / (1 - r)), np.log((k + 0.5) / (total - k + 0.5))
    spread = x - x.mean()
    if not (spread**2).sum() > 0:
        raise ValueError("a slope needs prompts of at least two different reference shares")
    slope = float(spread @ y / (spread @ spread))
    intercept = float(y.mean() - slope * x.mean())
    ci = UNKNOWN
    if len(x) > 3:
        leverage = 1 / len(x) + spread**2 / (spread @ spread)
        residuals = (y - intercept - slope * x) / (1 - leverage)
        error = np.sqrt((spread**2 * residuals**2).sum()) / (spread @ spread)
        half = float(student_quantile(level, len(x) - 2) * error)
        ci = (slope - half, slope + half)
    share = k / total
    same_side = (share - 0.5) * (r - 0.5)
    farther = np.abs(share - 0.5) > np.abs(r - 0.5)
    correlation = float(np.corrcoef(share, r)[0, 1]) if share.std() > 0 else float("nan")
    return Amplification(
        slope,
        ci,
        intercept,
        correlation,
        float(np.abs(share - r).mean()),
        int(((same_side > 0) & farther).sum()),
        int((same_side < 0).sum()),
        len(x),
        float((np.abs(share - 0.5) - np.abs(r - 0.5)).mean()),
    )
