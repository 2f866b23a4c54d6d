"""How well a score ranks positives above negatives."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.stats import norm, rankdata


def auc(
    scores: ArrayLike, labels: ArrayLike, level: float = 0.95
) -> tuple[float, tuple[float, float]]:
    """Area under the ROC curve with DeLong's interval on the logit scale.

    AUC = P(score⁺ > score⁻) + ½ P(score⁺ = score⁻). Its variance is S₁₀/m + S₀₁/n, the variances
    of the placement values (DeLong et al. 1988); computed by midranks (Sun and Xu 2014). The logit
    keeps the interval inside [0, 1]; where the placements have no variance (AUC 0 or 1) it is
    Newcombe's (2006, method 5).

    Args:
        scores: shape (N,), higher means more likely positive.
        labels: shape (N,), true for positives; both classes must be there.

    >>> area, (low, high) = auc([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1])
    >>> area
    0.75
    """
    s = np.asarray(scores, dtype=float)
    y = np.asarray(labels, dtype=bool)
    positive, negative = s[y], s[~y]
    m, n = len(positive), len(negative)
    if m == 0 or n == 0:
        raise ValueError("the AUC needs positives and negatives")
    if np.isnan(s).any():
        raise ValueError("scores must not be NaN")
    ranks = rankdata(np.concatenate([positive, negative]))
    v10 = (ranks[:m] - rankdata(positive)) / n
    v01 = 1 - (ranks[m:] - rankdata(negative)) / m
    area = float(v10.mean())
    variance = (v10.var(ddof=1) / m if m > 1 else 0.0) + (v01.var(ddof=1) / n if n > 1 else 0.0)
    z = float(norm.ppf(0.5 + level / 2))
    if variance == 0:
        return area, _newcombe(area, m, n, z)
    logit = np.log(area / (1 - area))
    half = z * np.sqrt(variance) / (area * (1 - area))
    low, high = (1 / (1 + np.exp(-(logit + side * half))) for side in (-1, 1))
    return area, (float(low), float(high))


def _newcombe(area: float, m: int, n: int, z: float) -> tuple[float, float]:
    """Newcombe (2006), method 5: the θ with (θ̂ − θ)² = z² V(θ), the variance taken at θ itself.

    V(θ) = θ(1 − θ) [1 + (N − 1)(1 − θ)/(2 − θ) + (N − 1) θ/(1 + θ)] / mn, N = (m + n)/2.
    """

    def beyond(theta: float) -> float:
        spread = 1 + ((m + n) / 2 - 1) * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        return (area - theta) ** 2 - z * z * theta * (1 - theta) * spread / (m * n)

    low = 0.0 if area == 0 else brentq(beyond, 1e-12, area - 1e-12)
    high = 1.0 if area == 1 else brentq(beyond, area + 1e-12, 1 - 1e-12)
    return float(low), float(high)
