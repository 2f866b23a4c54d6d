"""How far human labels can be trusted."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from ._checks import UNKNOWN, Floats, Interval, percentile_interval, resampled_counts

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
