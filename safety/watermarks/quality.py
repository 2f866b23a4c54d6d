"""What a mark or an attack costs an image."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image

from audit.copies import pixels, ssim


class Quality(NamedTuple):
    """How near an image is to the one it was made from.

    Attributes:
        psnr: 10 log10(1/MSE) of RGB on [0, 1], in dB; infinite for equal images.
        ssim: structural similarity of the luma (Wang et al. 2004); 1 for equal images.
    """

    psnr: float
    ssim: float


def quality(before: Image.Image, after: Image.Image) -> Quality:
    """PSNR and SSIM; NaN where the sizes differ or no 11×11 window fits: nothing is compared then.

    >>> black, white = Image.new("RGB", (16, 16), "black"), Image.new("RGB", (16, 16), "white")
    >>> [round(value, 4) for value in quality(black, white)]
    [0.0, 0.0001]
    """
    if before.size != after.size:
        return Quality(float("nan"), float("nan"))
    x, y = pixels(before), pixels(after)
    error = float(((x - y) ** 2).mean())
    psnr = 10 * float(np.log10(1 / error)) if error else float("inf")
    return Quality(psnr, ssim(x, y) if min(before.size) >= 11 else float("nan"))
