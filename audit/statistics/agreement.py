"""How far human labels can be trusted, and whether two filters decide alike."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from ._checks import (
    UNKNOWN,
    Floats,
    Interval,
    normal_quantile,
    percentile_interval,
    resampled_counts,
)

Metric = Literal["nominal", "ordinal", "interval"]


def krippendorff_alpha(
    ratings: ArrayLike,
    metric: Metric = "nominal",
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[float, Interval]:
    """Krippendorff's α = 1 − D_o/D_e, with a bootstrap interval over units.

    From the coincidences o_ck = Σ_u (pairs c, k within unit u)/(m_u − 1), their margins n_c and
    n = Σ n_c: α = 1 − (n − 1) Σ o_ck δ²_ck / Σ n_c n_k δ²_ck (Krippendorff 2018, ch. 12). δ² is
    [c ≠ k], or (c − k)², or (Σ_{g=c}^{k} n_g − (n_c + n_k)/2)². Units with fewer than two labels do
    not count. Units are resampled, since labels of one image are not independent. By convention,
    below .667 no conclusion is drawn, from .8 on labels are reliable.

    Args:
        ratings: shape (raters, units), numbers; nan where a rater gave no label. Nominal classes
            are coded as any distinct numbers.

    Returns:
        α, (low, high); all nan where every label is the same: nothing was told apart.

    >>> alpha, (low, high) = krippendorff_alpha([[1, 2, 3, 3], [1, 2, 3, 2]])
    >>> round(alpha, 3)
    0.667
    """
    r = np.asarray(ratings, dtype=float)
    if r.ndim != 2:
        raise ValueError(f"ratings must have the shape (raters, units), not {r.shape}")
    values = np.unique(r[np.isfinite(r)])
    counts = (r[:, :, None] == values).sum(axis=0).astype(float)
    counts = counts[counts.sum(axis=1) > 1]
    if not len(counts):
        raise ValueError("no unit has two labels")
    each = counts[:, :, None] * counts[:, None, :]
    each -= np.eye(len(values)) * counts[:, :, None]
    each /= counts.sum(axis=1)[:, None, None] - 1
    alpha = float(_alpha(each.sum(axis=0)[None], values, metric)[0])
    if np.isnan(alpha):
        return alpha, UNKNOWN
    units = len(counts)
    weights = resampled_counts(units, draws, np.random.default_rng(seed))
    resampled = _alpha(np.tensordot(weights, each, axes=1), values, metric)
    # A draw of units that all carry one label has no α.
    return alpha, percentile_interval(resampled[np.isfinite(resampled)], level)


def cohen_kappa(
    both: int, first: int, second: int, neither: int, level: float = 0.95
) -> tuple[float, Interval]:
    """Cohen's κ = (p_o − p_e)/(1 − p_e) of two yes-or-no decisions, with its asymptotic interval.

    The variance is that of Fleiss, Cohen and Everitt (1969), images as independent.

    Args:
        both, first, second, neither: images for which both say yes, only the first, only the
            second, neither.

    Returns:
        κ, (low, high); all nan where one answer is always given by both: chance alone agrees then.
        The limits are nan where the variance is 0, as for κ = 1: it tells nothing there.

    >>> kappa, (low, high) = cohen_kappa(20, 5, 10, 15)
    >>> round(kappa, 3), round(low, 3), round(high, 3)
    (0.4, 0.151, 0.649)
    """
    table = np.array([[both, first], [second, neither]], dtype=float)
    n = table.sum()
    if (table < 0).any() or n == 0:
        raise ValueError("κ needs counts of one image or more")
    p = table / n
    rows, columns = p.sum(axis=1), p.sum(axis=0)
    observed, expected = float(np.trace(p)), float(rows @ columns)
    if expected >= 1 - 1e-12:
        return float("nan"), UNKNOWN
    kappa = (observed - expected) / (1 - expected)
    mean = rows[None, :] + columns[:, None]  # p_.i + p_j., as the off-diagonal term has it
    a = float((np.diag(p) * (1 - np.diag(mean) * (1 - kappa)) ** 2).sum())
    off = p * mean**2
    b = (1 - kappa) ** 2 * float(off.sum() - np.trace(off))
    c = (kappa - expected * (1 - kappa)) ** 2
    variance = (a + b - c) / n
    if variance < 1e-15:
        return kappa, UNKNOWN
    half = normal_quantile(level) * float(np.sqrt(variance)) / (1 - expected)
    return kappa, (max(-1.0, kappa - half), min(1.0, kappa + half))


def _alpha(coincidences: Floats, values: Floats, metric: Metric) -> Floats:
    """α of B coincidence matrices, shape (B, V, V)."""
    margins = coincidences.sum(axis=2)
    if metric == "nominal":
        distance = 1 - np.eye(len(values))[None]
    elif metric == "interval":
        distance = ((values[:, None] - values) ** 2)[None]
    elif metric == "ordinal":
        # Σ_{g=c}^{k} n_g − (n_c + n_k)/2 is the distance between the middles of the ranks.
        middle = margins.cumsum(axis=1) - margins / 2
        distance = (middle[:, :, None] - middle[:, None, :]) ** 2
    else:
        raise ValueError(f"metric must be nominal, ordinal or interval, not {metric!r}")
    observed = (coincidences * distance).sum(axis=(1, 2))
    expected = (margins[:, :, None] * margins[:, None, :] * distance).sum(axis=(1, 2))
    ratio = np.full(len(expected), np.nan)
    np.divide((margins.sum(axis=1) - 1) * observed, expected, out=ratio, where=expected > 1e-12)
    return 1 - ratio
