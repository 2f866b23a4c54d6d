"""What a share is once the classifier's known errors are taken out, with their uncertainty."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ._checks import Floats, Interval, normal_quantile


@dataclass(frozen=True)
class Corrected:
    """A corrected proportion beside the raw one.

    Attributes:
        estimate: in [0, 1]; nan where the classifier is no better than chance or has no labels.
        ci: its interval; (0, 1) there: nothing is known.
        standard_error: by the delta method, of the estimate before it is cut to [0, 1].
    """

    estimate: float
    ci: Interval
    raw: float
    standard_error: float


def rogan_gladen(
    positive: float,
    n: float,
    sensitivity: tuple[float, float],
    specificity: tuple[float, float],
    level: float = 0.95,
) -> Corrected:
    """The true share from an imperfect classifier's (Rogan and Gladen 1978).

    p = (q + Sp − 1)/(Se + Sp − 1), variance [q(1 − q)/n + p²Se(1 − Se)/n₁ + (1 − p)²Sp(1 − Sp)/n₀]
    / (Se + Sp − 1)². The interval is that of Lang and Reiczigel (2014): the same on Agresti and
    Coull's counts (q with z²/2 added to both, Se and Sp with 1), moved by
    2z²[pSe(1 − Se)/n₁ − (1 − p)Sp(1 − Sp)/n₀] and cut to [0, 1].

    Args:
        positive, n: images called positive, of all; fractions where n is an effective size.
        sensitivity: (called positive, all) among labelled images that are positive.
        specificity: (called negative, all) among labelled images that are negative.

    >>> found = rogan_gladen(300, 1000, (90, 100), (80, 100))
    >>> round(found.estimate, 4), [round(bound, 3) for bound in found.ci]
    (0.1429, [0.021, 0.236])
    """
    (tp, n1), (tn, n0) = sensitivity, specificity
    for k, total, name in ((positive, n, "positive"), (tp, n1, "sensitivity")):
        if not 0 <= k <= total:
            raise ValueError(f"{name}: {k} of {total}")
    if not 0 <= tn <= n0:
        raise ValueError(f"specificity: {tn} of {n0}")
    if n == 0:
        return Corrected(float("nan"), (0.0, 1.0), float("nan"), float("nan"))
    z = normal_quantile(level)
    q = positive / n
    nothing = Corrected(float("nan"), (0.0, 1.0), q, float("nan"))
    if n1 == 0 or n0 == 0:
        return nothing
    p, error = _delta(q, n, tp / n1, n1, tn / n0, n0)
    q_, se, sp = (positive + z * z / 2) / (n + z * z), (tp + 1) / (n1 + 2), (tn + 1) / (n0 + 2)
    centre, spread = _delta(q_, n + z * z, se, n1 + 2, sp, n0 + 2)
    if np.isnan(p) or np.isnan(centre):
        return nothing
    shift = 2 * z * z
    shift *= centre * se * (1 - se) / (n1 + 2) - (1 - centre) * sp * (1 - sp) / (n0 + 2)
    low, high = (min(1.0, max(0.0, centre + shift + side * z * spread)) for side in (-1, 1))
    return Corrected(min(1.0, max(0.0, p)), (low, high), q, error)


def _delta(q: float, n: float, se: float, n1: float, sp: float, n0: float) -> tuple[float, float]:
    youden = se + sp - 1
    if youden <= 0:
        return float("nan"), float("nan")
    p = (q + sp - 1) / youden
    variance = q * (1 - q) / n + p**2 * se * (1 - se) / n1 + (1 - p) ** 2 * sp * (1 - sp) / n0
    return p, float(np.sqrt(variance)) / youden


def correct_shares(
    counts: ArrayLike,
    confusion: ArrayLike,
    level: float = 0.95,
    draws: int = 1000,
    seed: int = 0,
) -> tuple[Floats, Floats]:
    """The true shares of K classes from a classifier's counts and its confusion matrix.

    The likeliest p ≥ 0 with Σp = 1 and q = pᵀM, by EM (Vardi and Lee 1993; Saerens et al. 2002):
    p_k ← Σ_j q_j p_k M_kj / Σ_i p_i M_ij. Where qᵀM⁻¹ has no negative share, that is the answer.
    The interval repeats this for posterior draws of q and of each row of M, Dirichlet with 1/K
    added to every count, and takes the central part of the answers.

    Args:
        counts: shape (K,), images called each class.
        confusion: shape (K, K), labelled images: rows the truth, columns what they were called.

    Returns:
        shares, shape (K,), and bounds, shape (K, 2).

    Raises:
        ValueError: a class without a labelled image: its errors are unknown.

    >>> shares, bounds = correct_shares([300, 700], [[90, 10], [20, 80]])
    >>> shares.round(4).tolist()
    [0.1429, 0.8571]
    """
    c, m = np.asarray(counts, dtype=float), np.asarray(confusion, dtype=float)
    classes = len(c)
    if c.ndim != 1 or m.shape != (classes, classes):
        raise ValueError(f"counts of shape {c.shape} need a {classes} × {classes} confusion matrix")
    if (c < 0).any() or (m < 0).any() or c.sum() == 0:
        raise ValueError("counts must not be negative, and need at least one image")
    if (m.sum(axis=1) == 0).any():
        empty = int(np.flatnonzero(m.sum(axis=1) == 0)[0])
        raise ValueError(f"class {empty} has no labelled image: its errors are unknown")
    normal_quantile(level)
    estimate = likeliest_shares((c / c.sum())[None], (m / m.sum(axis=1, keepdims=True))[None])[0]
    rng = np.random.default_rng(seed)
    q = rng.dirichlet(c + 1 / classes, draws)
    rows = np.stack([rng.dirichlet(row + 1 / classes, draws) for row in m], axis=1)
    tails = [0.5 - level / 2, 0.5 + level / 2]
    return estimate, np.quantile(likeliest_shares(q, rows), tails, axis=0).T


def likeliest_shares(q: Floats, m: Floats, steps: int = 500, tolerance: float = 1e-7) -> Floats:
    """The likeliest shares of B problems at once: see :func:`correct_shares`.

    EM, which starts near the inverse qᵀM⁻¹ and ends there where that is a distribution.

    Args:
        q: shape (B, K), shares of images called each class.
        m: shape (B, K, K), rows the truth, columns what is called; rows sum to 1.

    Returns:
        shape (B, K).
    """
    start = np.einsum("bj,bjk->bk", q, np.linalg.pinv(m))
    p: Floats = np.maximum(start, 1e-3 / q.shape[1])
    p /= p.sum(axis=1, keepdims=True)
    # Where the inverse is a distribution, it is the answer to the last digit.
    inside = (start >= 0).all(axis=1)
    p[inside] = start[inside]
    for _ in range(steps):
        expected = np.maximum(np.einsum("bk,bkj->bj", p, m), 1e-300)
        updated = p * np.einsum("bkj,bj->bk", m, q / expected)
        done = np.abs(updated - p).max() < tolerance
        p = updated
        if done:
            break
    return p
