"""Shares in many small cells, such as gender × age × skin tone, steadied by each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betainc, betaincinv, betaln

from ._checks import Floats, finite


@dataclass(frozen=True)
class Shrunk:
    """Shares of cells, each drawn towards the mean of all by as much as its few images deserve.

    Attributes:
        estimate: shape (C,), posterior means.
        ci: shape (C, 2), central posterior intervals.
        raw: shape (C,), k/n; nan where a cell is empty.
        mean: the mean of the shares over cells.
        concentration: a + b of the cells' Beta(a, b), its posterior median: the prior's weight in
            images. Large: the cells are alike.
    """

    estimate: Floats
    ci: Floats
    raw: Floats
    mean: float
    concentration: float


def shrink_cells(successes: ArrayLike, n: ArrayLike, level: float = 0.95) -> Shrunk:
    """Partial pooling: k_c ~ Binomial(n_c, θ_c), θ_c ~ Beta(a, b), a and b learnt from all cells.

    The hyperprior is p(a, b) ∝ (a + b)^−5/2 (Gelman et al. 2013, sec. 5.3), summed over a grid of
    (logit of the mean, log of a + b), so that the intervals carry the uncertainty of a and b, which
    plain empirical Bayes leaves out. The intervals are right on average over cells, not for every
    cell: one that differs from all others is drawn too far. Show the raw share beside.

    Args:
        successes, n: shape (C,), counts in each cell; n may be 0.

    >>> found = shrink_cells([0, 1, 2, 1, 10, 3], [10, 10, 10, 10, 10, 10])
    >>> found.estimate.round(2).tolist()
    [0.03, 0.13, 0.22, 0.13, 0.94, 0.31]
    """
    k, total = finite(successes), finite(n, "n")
    if k.shape != total.shape or (k < 0).any() or (k > total).any():
        raise ValueError("successes must lie in 0…n, one of each a cell")
    if total.sum() == 0:
        raise ValueError("every cell is empty")
    # Cells of equal counts have equal likelihoods.
    cells, back, times = np.unique(
        np.stack([k, total], axis=1), axis=0, return_inverse=True, return_counts=True
    )
    hits, misses = cells[:, :1], cells[:, 1:] - cells[:, :1]

    def hyperposterior(logits: Floats, log_sizes: Floats) -> tuple[Floats, Floats, Floats]:
        """Means, sizes a + b and weights over the grid, flat."""
        logit, log_size = (x.ravel() for x in np.meshgrid(logits, log_sizes))
        mean, size = 1 / (1 + np.exp(-logit)), np.exp(log_size)
        a, b = mean * size, (1 - mean) * size
        # The hyperprior and the Jacobian of (a, b) → (logit, log size), which is ab.
        log_weight = -2.5 * log_size + np.log(a) + np.log(b)
        log_weight += times @ (betaln(a + hits, b + misses) - betaln(a, b))
        weight = np.exp(log_weight - log_weight.max())
        return mean, size, weight / weight.sum()

    pooled = (k.sum() + 0.5) / (total.sum() + 1)
    centre = float(np.log(pooled / (1 - pooled)))
    smallest, largest = np.log(0.1), np.log(2000)
    grids = [np.linspace(centre - 4, centre + 4, 121), np.linspace(smallest, largest, 41)]
    # A second, finer grid where the first one has its weight.
    mean, size, weight = hyperposterior(*grids)
    for i, x in enumerate((np.log(mean / (1 - mean)), np.log(size))):
        at = float(weight @ x)
        reach = 4 * max(float(np.sqrt(weight @ (x - at) ** 2)), float(np.ptp(grids[i])) / 240)
        grids[i] = np.linspace(at - reach, at + reach, 25)
    grids[1] = np.unique(grids[1].clip(smallest, largest))
    mean, size, weight = hyperposterior(*grids)
    # What carries a hundred-thousandth of the weight cannot move an interval.
    kept = weight > weight.max() * 1e-5
    mean, size, weight = mean[kept], size[kept], weight[kept] / weight[kept].sum()
    a, b = mean * size + hits, (1 - mean) * size + misses
    order = np.argsort(size)
    median = size[order][np.searchsorted(weight[order].cumsum(), 0.5)]
    back = back.ravel()
    return Shrunk(
        ((a / (a + b)) @ weight)[back],
        _quantiles(a, b, weight, np.array([0.5 - level / 2, 0.5 + level / 2]))[back],
        np.divide(k, total, out=np.full(len(k), np.nan), where=total > 0),
        float(mean @ weight),
        float(median),
    )


def _quantiles(a: Floats, b: Floats, weight: Floats, tails: Floats) -> Floats:
    """Quantiles of each cell's mixture of beta distributions, shape (C, tails), within 2⁻²⁶.

    Newton's method from the quantiles of the beta distribution of equal mean and variance; a step
    that leaves what the root is known to lie in halves that instead.

    Args:
        a, b: shape (C, G); weight: shape (G,), sum 1.
    """
    mean, square = (a / (a + b)) @ weight, (a * (a + 1) / (a + b) / (a + b + 1)) @ weight
    size = mean * (1 - mean) / (square - mean**2) - 1
    x = betaincinv((mean * size)[:, None], ((1 - mean) * size)[:, None], tails)
    low, high = np.zeros_like(x), np.ones_like(x)
    norm = betaln(a, b)[:, None]
    a, b = a[:, None] - 1, b[:, None] - 1
    for _ in range(50):
        at = x[..., None]
        miss = betainc(a + 1, b + 1, at) @ weight - tails
        low, high = np.where(miss < 0, x, low), np.where(miss < 0, high, x)
        with np.errstate(all="ignore"):
            step = x - miss / (np.exp(a * np.log(at) + b * np.log1p(-at) - norm) @ weight)
        step = np.where((low <= step) & (step <= high), step, (low + high) / 2)
        x, moved = step, np.abs(step - x)
        if (moved < 1e-11).all():
            break
    # In the middle of the cell of 2⁻²⁵: the last bits of the sums over the grid mean nothing.
    found: Floats = (np.floor(x * 2**25).clip(max=2**25 - 1) + 0.5) / 2**25
    return found
