"""From sRGB to CIELAB, and the difference of two colours."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

WHITE = np.array([0.95047, 1.0, 1.08883])
"""X, Y, Z of D65 for the 2° observer, sRGB's white (IEC 61966-2-1)."""
TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)


def lab(srgb: ArrayLike) -> NDArray[np.float64]:
    """CIELAB (D65, 2°) of sRGB values.

    Args:
        srgb: shape (…, 3), 0 to 255.

    Returns:
        shape (…, 3): L* in [0, 100], a*, b*.

    >>> lab([[255, 0, 0], [160, 126, 86]]).round(1).tolist()
    [[53.2, 80.1, 67.2], [55.1, 7.8, 26.7]]
    """
    encoded = np.asarray(srgb, float) / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    ratio = linear @ TO_XYZ.T / WHITE
    f = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = np.moveaxis(f, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def ciede2000(one: ArrayLike, other: ArrayLike) -> NDArray[np.float64]:
    """The colour difference ΔE00 of CIELAB values, which broadcast.

    Sharma, Wu, Dalal 2005, equations 2 to 22, with k_L = k_C = k_H = 1. Just noticeable is about 1.

    Args:
        one, other: shape (…, 3).

    >>> ciede2000([50, 2.6772, -79.7751], [50, 0, -82.7485]).round(4).item()
    2.0425
    """
    l1, a1, b1 = np.moveaxis(np.asarray(one, float), -1, 0)
    l2, a2, b2 = np.moveaxis(np.asarray(other, float), -1, 0)
    mean = (np.hypot(a1, b1) + np.hypot(a2, b2)) / 2
    stretch = 1.5 - 0.5 * np.sqrt(mean**7 / (mean**7 + 25.0**7))
    c1, c2 = np.hypot(stretch * a1, b1), np.hypot(stretch * a2, b2)
    h1, h2 = (np.degrees(np.arctan2(b, stretch * a)) % 360 for a, b in ((a1, b1), (a2, b2)))
    # Without chroma there is no hue, and no difference of hues.
    step = np.where(c1 * c2 == 0, 0, (h2 - h1 + 180) % 360 - 180)
    dl, dc, dh = l2 - l1, c2 - c1, 2 * np.sqrt(c1 * c2) * np.sin(np.radians(step / 2))
    c, h = (c1 + c2) / 2, h1 + step / 2
    t = 1 - 0.17 * np.cos(np.radians(h - 30)) + 0.24 * np.cos(np.radians(2 * h))
    t += 0.32 * np.cos(np.radians(3 * h + 6)) - 0.20 * np.cos(np.radians(4 * h - 63))
    middle = ((l1 + l2) / 2 - 50) ** 2
    sl = 1 + 0.015 * middle / np.sqrt(20 + middle)
    sc, sh = 1 + 0.045 * c, 1 + 0.015 * c * t
    turn = np.radians(60 * np.exp(-(((h % 360 - 275) / 25) ** 2)))
    rt = -np.sin(turn) * 2 * np.sqrt(c**7 / (c**7 + 25.0**7))
    squared = (dl / sl) ** 2 + (dc / sc) ** 2 + (dh / sh) ** 2 + rt * (dc / sc) * (dh / sh)
    return np.asarray(np.sqrt(squared))
