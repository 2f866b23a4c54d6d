"""How well a score ranks positives above negatives."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm, rankdata


def auc(
    scores: ArrayLike, labels: ArrayLike, level: float = 0.95
) -> tuple[float, tuple[float, float]]:
    """Area under the ROC curve with DeLong's interval on the logit scale.

    AUC = P(score⁺ > score⁻) + ½ P(score⁺ = score⁻). Its variance is S₁₀/m + S₀₁/n, the variances
    of the placement values (DeLong et al. 1988); computed by midranks (Sun and Xu 2014). The logit
    keeps the interval inside [0, 1]; at AUC 0 or 1 the placements have no variance, and the bound
    is Hanley and McNeil's (1982) at half a pair lost.

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
    inside = min(max(area, 0.5 / (m * n)), 1 - 0.5 / (m * n))
    if variance == 0:
        q1, q2 = inside / (2 - inside), 2 * inside**2 / (1 + inside)
        variance = (
            inside * (1 - inside) + (m - 1) * (q1 - inside**2) + (n - 1) * (q2 - inside**2)
        ) / (m * n)
    logit = np.log(inside / (1 - inside))
    half = z * np.sqrt(variance) / (inside * (1 - inside))
    low, high = (1 / (1 + np.exp(-(logit + side * half))) for side in (-1, 1))
    return area, (min(float(low), area), max(float(high), area))
