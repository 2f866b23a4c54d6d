"""The Fréchet distance of two sets of images by their features."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._checks import UNKNOWN, Floats, group_index, student_quantile
from .distances import Distance, _jackknife, _vectors

FOLDS = 20
"""Blocks at most that the jackknife leaves out, of either set: each costs a distance anew."""


def frechet(
    x: ArrayLike,
    y: ArrayLike,
    clusters: ArrayLike | None = None,
    folds: int = FOLDS,
    level: float = 0.95,
) -> Distance:
    """‖μ_x − μ_y‖² + tr(Σ_x + Σ_y − 2 (Σ_x Σ_y)^½) (Heusel et al. 2017, eq. 6): FID, where the
    features are Inception's.

    It is biased: at n images of each set its mean lies above that of endless sets by about c/n
    (Bińkowski et al. 2018; Chong and Forsyth 2020), so only values of the same n compare. A
    bootstrap repeats images, which makes n smaller and the bias larger, and its percentiles lie
    beside the value that they are of. The interval is therefore Student's on the jackknife that
    leaves out each block of clusters of x and each block of y in turn: it says how far the value at
    this n would move with other prompts and other reference pictures, not where the value of
    endless sets lies.

    With A and B the centred features over √(n − 1), tr (Σ_x Σ_y)^½ is the sum of the singular
    values of A Bᵀ; no root of a matrix is taken.

    Args:
        x, y: shapes (n, d) and (m, d), finite.
        clusters: shape (n,), the prompt of each image of x; default: each is its own.

    Raises:
        ValueError: shapes that do not fit, values that are not finite, fewer than two of a set.

    >>> x = np.random.default_rng(0).normal(size=(400, 2))
    >>> round(frechet(x, x + [3, 4]).estimate, 6), abs(frechet(x, x).estimate) < 1e-9
    (25.0, True)
    """
    a, b = _vectors(x, "x"), _vectors(y, "y")
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"x has {a.shape[1]} columns and y {b.shape[1]}")
    if min(len(a), len(b)) < 2:
        raise ValueError("a distance needs two images of each set")
    index = group_index(np.arange(len(a)) if clusters is None else clusters, len(a), "clusters")
    count = int(index.max()) + 1
    own, other = _Normal(a), _Normal(b)
    estimate = own.to(other)
    if min(count, len(b)) < 3:
        return Distance(estimate, UNKNOWN, len(a), len(b), count)
    of_a, of_b = _blocks(count, folds)[index], _blocks(len(b), folds)
    left_a = [_Normal(a[of_a != block]).to(other) for block in range(of_a.max() + 1)]
    left_b = [own.to(_Normal(b[of_b != block])) for block in range(of_b.max() + 1)]
    variance = _jackknife(np.array(left_a)) + _jackknife(np.array(left_b))
    half = student_quantile(level, min(len(left_a), len(left_b)) - 1) * variance**0.5
    low = max(0.0, estimate - half)  # no distance is below
    return Distance(estimate, (low, estimate + half), len(a), len(b), count)


class _Normal:
    """Mean and a factor F of the covariance FᵀF of a set, of at most d rows."""

    def __init__(self, rows: Floats) -> None:
        self.mean = rows.mean(axis=0)
        self.factor = (rows - self.mean) / (len(rows) - 1) ** 0.5
        if len(rows) > rows.shape[1]:
            self.factor = np.linalg.qr(self.factor, mode="r")

    def to(self, other: _Normal) -> float:
        gap = self.mean - other.mean
        root = np.linalg.svd(self.factor @ other.factor.T, compute_uv=False).sum()
        spread = (self.factor**2).sum() + (other.factor**2).sum()
        return float(gap @ gap + spread - 2 * root)


def _blocks(count: int, folds: int) -> NDArray[np.intp]:
    """The block of each of `count` things, at random: neighbours in a list are often alike."""
    blocks: NDArray[np.intp] = np.arange(count) % min(count, folds)
    return np.random.default_rng(count).permutation(blocks)
