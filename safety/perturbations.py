"""What happens to an image on its way through the world: changes of one declared size each.

Every function takes an image of any mode and gives an RGB copy; all but `cut` keep its size.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from audit.errors import AuditError


def jpeg(image: Image.Image, quality: float, subsampling: str = "4:2:0") -> Image.Image:
    """The image after JPEG at `quality` (1-95), its chroma halved both ways or not (``4:4:4``)."""
    if not 1 <= quality <= 95:
        raise AuditError(f"JPEG quality must lie in 1…95, not {quality:g}")
    return _saved(image, "JPEG", quality=round(quality), subsampling=subsampling)


def webp(image: Image.Image, quality: float) -> Image.Image:
    """The image after lossy WebP at `quality` (0-100)."""
    within("WebP quality", quality, 0, 100)
    return _saved(image, "WEBP", quality=round(quality))


def resized(image: Image.Image, factor: float) -> Image.Image:
    """Reduced and enlarged again, bicubic: what a thumbnail loses."""
    within("the factor of a resize", factor, 0.01, 1)
    image = image.convert("RGB")
    return _shrunk(image, factor).resize(image.size, Image.Resampling.BICUBIC)


def cropped(image: Image.Image, share: float) -> Image.Image:
    """The centre of `share` of each side, enlarged to the size there was."""
    within("the share that a crop keeps", share, 0.01, 1)
    width, height = image.size
    x, y = width * (1 - share) / 2, height * (1 - share) / 2
    box = (x, y, width - x, height - y)
    return image.convert("RGB").resize(image.size, Image.Resampling.BICUBIC, box=box)


def cut(image: Image.Image, share: float) -> Image.Image:
    """The centre of `share` of each side, as it is: a smaller image."""
    within("the share that a cut keeps", share, 0.01, 1)
    width, height = image.size
    wide, high = max(1, round(width * share)), max(1, round(height * share))
    left, top = (width - wide) // 2, (height - high) // 2
    return image.convert("RGB").crop((left, top, left + wide, top + high))


def rotated(image: Image.Image, degrees: float) -> Image.Image:
    """Turned anticlockwise about its centre, bicubic; the corners that come free are black."""
    within("the degrees of a rotation", degrees, -360, 360)
    return image.convert("RGB").rotate(degrees, Image.Resampling.BICUBIC)


def mirrored(image: Image.Image) -> Image.Image:
    """Left to right."""
    return ImageOps.mirror(image.convert("RGB"))


def blurred(image: Image.Image, deviation: float) -> Image.Image:
    """Gaussian, σ in pixels."""
    within("the σ of a blur", deviation, 0, np.inf)
    return image.convert("RGB").filter(ImageFilter.GaussianBlur(deviation))


def noisy(image: Image.Image, deviation: float, seed: int = 0) -> Image.Image:
    """Gaussian noise of a standard deviation in pixel values, cut at 0 and 255."""
    within("the σ of noise", deviation, 0, np.inf)
    values = np.asarray(image.convert("RGB"), dtype=float)
    noise = np.random.default_rng(seed).normal(0, deviation, values.shape)
    # Cut, never cast alone: 250 + 20 would wrap to 14.
    return Image.fromarray((values + noise).round().clip(0, 255).astype(np.uint8))


def brightened(image: Image.Image, factor: float) -> Image.Image:
    """Every value times `factor`, cut at 255."""
    within("the factor of brightness", factor, 0, np.inf)
    return ImageEnhance.Brightness(image.convert("RGB")).enhance(factor)


def contrasted(image: Image.Image, factor: float) -> Image.Image:
    """Every value's distance from the mean grey times `factor`, cut at 0 and 255."""
    within("the factor of contrast", factor, 0, np.inf)
    return ImageEnhance.Contrast(image.convert("RGB")).enhance(factor)


def saturated(image: Image.Image, factor: float) -> Image.Image:
    """Every value's distance from the pixel's luma times `factor`; 0: grey."""
    within("the factor of saturation", factor, 0, np.inf)
    return ImageEnhance.Color(image.convert("RGB")).enhance(factor)


def bordered(image: Image.Image, share: float) -> Image.Image:
    """A white border of a share of each side, the image inside reduced."""
    within("a border's share of a side", share, 0, 0.5)
    width, height = image.size
    x, y = round(width * share), round(height * share)
    framed = Image.new("RGB", image.size, (255, 255, 255))
    inner = (max(1, width - 2 * x), max(1, height - 2 * y))
    framed.paste(image.convert("RGB").resize(inner, Image.Resampling.BICUBIC), (x, y))
    return framed


def overlaid(image: Image.Image, share: float, seed: int = 0) -> Image.Image:
    """A white plate over `share` of the area, of the image's proportions, anywhere."""
    within("an overlay's share of the area", share, 0, 1)
    covered = image.convert("RGB")
    wide, high = (round(length * share**0.5) for length in covered.size)
    rng = np.random.default_rng(seed)
    left = int(rng.integers(0, covered.width - wide + 1))
    top = int(rng.integers(0, covered.height - high + 1))
    covered.paste((255, 255, 255), (left, top, left + wide, top + high))
    return covered


def screenshot(image: Image.Image, scale: float) -> Image.Image:
    """Shown at `scale` of its size on a screen, captured with a lost pixel at each edge, sent as
    JPEG at quality 85, and enlarged to the size there was."""
    within("the scale of a screenshot", scale, 0.01, 1)
    shown = _shrunk(image.convert("RGB"), scale)
    width, height = shown.size
    if min(width, height) > 2:
        shown = shown.crop((1, 1, width - 1, height - 1))
    return jpeg(shown, 85).resize(image.size, Image.Resampling.BICUBIC)


def within(name: str, value: float, low: float, high: float) -> None:
    """One clear line where `value` leaves its range.

    Raises:
        AuditError: it does, or is no number.
    """
    if not (low <= value <= high and np.isfinite(value)):
        upper = f"at most {high:g}" if np.isfinite(high) else "finite"
        raise AuditError(f"{name} must be at least {low:g} and {upper}, not {value:g}")


def _shrunk(image: Image.Image, factor: float) -> Image.Image:
    width, height = image.size
    small = (max(1, round(width * factor)), max(1, round(height * factor)))
    return image.resize(small, Image.Resampling.BICUBIC)


def _saved(image: Image.Image, kind: str, **options: Any) -> Image.Image:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, kind, **options)
    buffer.seek(0)
    with Image.open(buffer, formats=[kind]) as read:
        return read.convert("RGB")
