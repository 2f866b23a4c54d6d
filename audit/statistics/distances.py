"""Distances of two sets of images by their embeddings: squared maximum mean discrepancies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._checks import UNKNOWN, Floats, Interval, group_index, student_quantile

Kernel = Callable[[Floats, Floats], Floats]
CMMD_SIGMA, CMMD_SCALE = 10.0, 1000.0
"""Bandwidth and factor of Jayasumana et al. 2024, section 4."""
BLOCK = 2**22
"""Kernel values that are held at once."""


@dataclass(frozen=True)
class Distance:
    """A squared MMD.

    Attributes:
        estimate: unbiased, so below 0 about as often as above where the two sets are alike.
        ci: (nan, nan) with fewer than three clusters in either set.
        n, m: images of the two sets.
        clusters: of the first set.
    """

    estimate: float
    ci: Interval
    n: int
    m: int
    clusters: int


def kid(
    x: ArrayLike,
    y: ArrayLike,
    clusters: ArrayLike | None = None,
    strata: ArrayLike | None = None,
    level: float = 0.95,
) -> Distance:
    """Kernel distance: unbiased MMD² of k(a, b) = (a·b/d + 1)³ (Bińkowski et al. 2018, section 4).

    Args:
        x, y: shapes (n, d) and (m, d). The kernel is made for features whose squared length is of
            the order of d, as Inception's are: scale unit vectors by √d, which makes it
            (cos + 1)³.
        clusters, strata: see :func:`mmd`.

    >>> x = np.random.default_rng(0).normal(size=(40, 8))
    >>> low, high = kid(x[:20], x[20:]).ci
    >>> low < 0 < high, kid(x[:20], x[20:] + 1).ci[0] > 0
    (True, True)
    """
    return mmd(x, y, lambda a, b: (a @ b.T / a.shape[1] + 1) ** 3, clusters, strata, level)


def cmmd(
    x: ArrayLike,
    y: ArrayLike,
    clusters: ArrayLike | None = None,
    strata: ArrayLike | None = None,
    level: float = 0.95,
) -> Distance:
    """CMMD: 1000 · MMD² of exp(−‖a − b‖²/2σ²), σ = 10, on unit CLIP embeddings (Jayasumana et
    al. 2024, section 4).

    Unbiased (their eq. 3). Their published program gives the biased form, which is larger by about
    (1/n + 1/m) · 5 (1 − mean cosine): a tenth at 100 images.

    Args:
        x, y: shapes (n, d) and (m, d), rows of length 1.
        clusters, strata: see :func:`mmd`.
    """

    def gaussian(a: Floats, b: Floats) -> Floats:
        squared = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
        kernel: Floats = np.exp(-squared / (2 * CMMD_SIGMA**2))
        return kernel

    found = mmd(x, y, gaussian, clusters, strata, level)
    low, high = (bound * CMMD_SCALE for bound in found.ci)
    return Distance(found.estimate * CMMD_SCALE, (low, high), found.n, found.m, found.clusters)


def mmd(
    x: ArrayLike,
    y: ArrayLike,
    kernel: Kernel,
    clusters: ArrayLike | None = None,
    strata: ArrayLike | None = None,
    level: float = 0.95,
) -> Distance:
    """Unbiased squared maximum mean discrepancy (Gretton et al. 2012, eq. 3), by prompts.

    MMD² = mean k(x_i, x_j) + mean k(y_i, y_j) − 2 mean k(x_i, y_j), no image with itself. Where the
    prompts of x are a sample of the captions that the reference is made for, they are clusters:
    images of one prompt resemble each other, and only pairs of different prompts count. Where they
    are all of its captions, each with the same share, they are strata: pairs of one prompt are then
    one of P in P² of the pairs, whatever the number of images, and leaving them out would make the
    set look wider than it is.

    The interval is Student's on the jackknife that leaves out each cluster of x, or each image of
    its stratum, and each image of y in turn (Arvesen 1969). Where the sets are alike the statistic
    is degenerate and the jackknife's variance about twice the true one (Efron and Stein 1981): the
    interval then covers 0 more often than it says.

    Args:
        x, y: shapes (n, d) and (m, d), finite.
        kernel: (a, d) and (b, d) to (a, b).
        clusters, strata: shape (n,), the prompt of each image of x, as one or the other; default:
            every image is a cluster of its own.

    Raises:
        ValueError: shapes that do not fit, values that are not finite, only one cluster, or a
            stratum of fewer than two images.
    """
    a, b = _vectors(x, "x"), _vectors(y, "y")
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"x has {a.shape[1]} columns and y {b.shape[1]}")
    if clusters is not None and strata is not None:
        raise ValueError("prompts are either clusters or strata")
    prompts = clusters if strata is None else strata
    if prompts is None:
        prompts = np.arange(len(a))
    index = group_index(prompts, len(a), "prompts")
    sizes = np.bincount(index).astype(float)
    if len(sizes) < 2 or len(b) < 2:
        raise ValueError("a distance needs two prompts of x and two images of y")
    shares = 1 / (len(sizes) * sizes[index])
    weights = shares if strata is not None else np.full(len(a), 1 / len(a))
    toward_x, toward_y = _across(a, b, kernel, weights)
    if strata is None:
        xx, variance = _of_clusters(a, index, sizes, toward_x / len(b), kernel)
        freedom = min(len(sizes), len(b)) - 1
    else:
        xx, variance = _of_strata(a, index, sizes, toward_x / len(b), kernel)
        freedom = min(len(a) - len(sizes), len(b) - 1)
    own = _across(b, b, kernel)[0] - _diagonal(b, kernel)
    m = len(b)
    yy = float(own.sum()) / (m * (m - 1))
    estimate = xx + yy - 2 * float(toward_y.sum()) / m
    if min(len(sizes), m) < 3:
        return Distance(estimate, UNKNOWN, len(a), m, len(sizes))
    left = (own.sum() - 2 * own) / ((m - 1) * (m - 2))
    variance += _jackknife(left - 2 * (toward_y.sum() - toward_y) / (m - 1))
    half = student_quantile(level, freedom) * variance**0.5
    return Distance(estimate, (estimate - half, estimate + half), len(a), m, len(sizes))


def _of_clusters(
    a: Floats, index: NDArray[np.intp], sizes: Floats, toward: Floats, kernel: Kernel
) -> tuple[float, float]:
    """Mean kernel value of pairs of different clusters; the variance that x brings.

    Args:
        toward: mean kernel value of each image with the y.
    """
    rows, _ = _across(a, a, kernel)
    order = np.argsort(index, kind="stable")
    same = np.array(
        [
            kernel(a[members], a[members]).sum()
            for members in np.split(order, np.cumsum(sizes.astype(int))[:-1])
        ]
    )
    n, others = len(a), np.bincount(index, rows) - same
    pairs = sizes * (n - sizes)
    mean = float(others.sum() / pairs.sum())
    if len(sizes) < 3:
        return mean, 0.0
    # A cluster's pairs stand in its own rows and in its columns.
    left = (others.sum() - 2 * others) / (pairs.sum() - 2 * pairs)
    cross = (toward.sum() - np.bincount(index, toward)) / (n - sizes)
    return mean, _jackknife(left - 2 * cross)


def _of_strata(
    a: Floats, index: NDArray[np.intp], sizes: Floats, toward: Floats, kernel: Kernel
) -> tuple[float, float]:
    """Mean kernel value of two images of strata of equal shares; the variance that x brings, by
    each image's influence within its stratum."""
    if (sizes < 2).any():
        raise ValueError("a stratum needs two images")
    count, members = len(sizes), np.eye(len(sizes))[index]
    means = np.empty((len(a), count))
    step = max(1, BLOCK // len(a))
    for start in range(0, len(a), step):
        means[start : start + step] = kernel(a[start : start + step], a) @ members / sizes
    place = np.arange(len(a)), index
    own = means[place] * sizes[index] - _diagonal(a, kernel)
    means[place] = own / (sizes[index] - 1)
    rows: Floats = means.mean(axis=1)
    influence = 2 * (rows - toward)
    within = np.array([influence[index == p].var(ddof=1) for p in range(count)])
    mean = float((rows / sizes[index]).sum()) / count
    return mean, float((within / sizes).sum()) / count**2


def _vectors(values: ArrayLike, name: str) -> Floats:
    array = np.asarray(values, dtype=float)
    if array.ndim != 2:
        raise ValueError(f"{name} must have two dimensions, not {array.ndim}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite: leave images without an embedding out")
    return array


def _across(
    a: Floats, b: Floats, kernel: Kernel, weights: Floats | None = None
) -> tuple[Floats, Floats]:
    """Sums of the kernel matrix over its columns, and weighted ones over its rows, in blocks."""
    rows, columns, step = np.empty(len(a)), np.zeros(len(b)), max(1, BLOCK // len(b))
    weights = np.ones(len(a)) if weights is None else weights
    for start in range(0, len(a), step):
        block = kernel(a[start : start + step], b)
        rows[start : start + step] = block.sum(axis=1)
        columns += weights[start : start + step] @ block
    return rows, columns


def _diagonal(a: Floats, kernel: Kernel) -> Floats:
    return np.array([float(kernel(row[None], row[None])[0, 0]) for row in a])


def _jackknife(left: Floats) -> float:
    count = len(left)
    return float((count - 1) / count * ((left - left.mean()) ** 2).sum())
