"""Structural similarity of one scale (Wang et al. 2004) and of many (Wang et al. 2003)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import correlate1d

Floats = NDArray[np.float64]
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""β of the scales, the finest first (section 3.3)."""
WINDOW, SIGMA = 11, 1.5
C1, C2 = 0.01**2, 0.03**2
"""For values in [0, 1]: K1 = 0.01, K2 = 0.03."""
_LUMA = np.array([0.299, 0.587, 0.114])


def scales_of(height: int, width: int) -> int:
    """How many of the five scales an image has room for: the window must fit the coarsest.

    >>> scales_of(512, 512), scales_of(64, 64)
    (5, 3)
    """
    side, scales = min(height, width), 0
    while side >= WINDOW and scales < len(WEIGHTS):
        side, scales = side // 2, scales + 1
    return scales


def ssim(x: NDArray[np.floating], y: NDArray[np.floating]) -> float:
    """The mean of SSIM = l · cs (Wang et al. 2004, eq. 13) of the luma over all places where an
    11×11 Gaussian window (σ = 1.5) fits; a negative mean counts as 0.

    Args:
        x, y: shape (h, w, 3), values in [0, 1], h and w ≥ 11.

    >>> x = np.random.default_rng(0).random((64, 64, 3))
    >>> round(ssim(x, x), 6), ssim(x, 1 - x)
    (1.0, 0.0)
    """
    if x.shape != y.shape:
        raise ValueError(f"images of {x.shape} and {y.shape} cannot be compared")
    return float(_of_planes(np.stack([x, y]).astype(float) @ _LUMA, most_scales=1)[0, 1])


def ms_ssim(x: NDArray[np.floating], y: NDArray[np.floating]) -> float:
    """MS-SSIM = l_M^{β_M} Π_j cs_j^{β_j} (eq. 7), of the luma.

    l = (2 μ_x μ_y + C1)/(μ_x² + μ_y² + C1) at the coarsest scale M alone, and
    cs = (2 σ_xy + C2)/(σ_x² + σ_y² + C2) at each, their means over all places where an 11×11
    Gaussian window (σ = 1.5) fits. Each scale is the one before averaged over 2×2 pixels. On images
    too small for five scales the weights of those that fit are scaled to sum 1: such values are not
    to be held against thresholds found with five. Negative means count as 0.

    Args:
        x, y: shape (h, w, 3), values in [0, 1], h and w ≥ 11.

    >>> x = np.random.default_rng(0).random((64, 64, 3))
    >>> round(ms_ssim(x, x), 6), ms_ssim(x, 1 - x)
    (1.0, 0.0)
    """
    if x.shape != y.shape:
        raise ValueError(f"images of {x.shape} and {y.shape} cannot be compared")
    return float(ms_ssim_pairs(np.stack([x, y]))[0, 1])


def ms_ssim_pairs(images: NDArray[np.floating]) -> Floats:
    """:func:`ms_ssim` of every two of n images.

    Args:
        images: shape (n, h, w, c): RGB, of which the luma is taken, or another number of planes,
            such as latents stretched to [0, 1], whose values are averaged.

    Returns:
        shape (n, n), symmetric, one on the diagonal.
    """
    if images.shape[-1] == len(_LUMA):
        return _of_planes(images.astype(float) @ _LUMA)
    planes = [_of_planes(plane.astype(float)) for plane in np.moveaxis(images, -1, 0)]
    mean: Floats = np.mean(planes, axis=0)
    return mean


def _of_planes(level: Floats, most_scales: int = len(WEIGHTS)) -> Floats:
    """MS-SSIM of every two of n planes, shape (n, h, w)."""
    n, height, width = level.shape
    scales = min(most_scales, scales_of(height, width))
    if not scales:
        raise ValueError(f"an image of {width}×{height} is smaller than a window of {WINDOW}")
    weights = np.array(WEIGHTS[:scales]) / sum(WEIGHTS[:scales])
    result = np.ones((n, n))
    for j, weight in enumerate(weights):
        mean = _window(level)
        variance = _window(level**2) - mean**2
        for a in range(n):
            rest = slice(a + 1, n)
            covariance = _window(level[a] * level[rest]) - mean[a] * mean[rest]
            values = (2 * covariance + C2) / (variance[a] + variance[rest] + C2)
            if j == scales - 1:
                luminance = (2 * mean[a] * mean[rest] + C1) / (mean[a] ** 2 + mean[rest] ** 2 + C1)
                values = values * luminance
            here = np.maximum(values.mean(axis=(1, 2)), 0) ** weight
            result[a, rest] *= here
            result[rest, a] = result[a, rest]
        even = level[:, : level.shape[1] // 2 * 2, : level.shape[2] // 2 * 2]
        level = even.reshape(n, even.shape[1] // 2, 2, even.shape[2] // 2, 2).mean(axis=(2, 4))
    return result


def _window(values: Floats) -> Floats:
    """Gaussian means over all places where the window lies inside, shape (n, h − 10, w − 10)."""
    radius = WINDOW // 2
    at = np.arange(-radius, radius + 1)
    gauss = np.exp(-(at**2) / (2 * SIGMA**2))
    gauss /= gauss.sum()
    smooth = correlate1d(correlate1d(values, gauss, axis=1), gauss, axis=2)
    inside: Floats = smooth[:, radius:-radius, radius:-radius]
    return inside
