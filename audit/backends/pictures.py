"""Pictures from elsewhere, decoded within limits; and images as a product hands them out."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from audit import plugins
from audit.inputs import MAX_BYTES, MAX_PIXELS
from audit.plan import Request

from .noise_marks import refuse_noise_mark

FORMATS = ("PNG", "JPEG", "WEBP")
"""The decoders that foreign bytes may reach."""


def size_of(path: Path) -> tuple[int, int]:
    """Width and height in pixels, without decoding the picture.

    Raises:
        ValueError: it is no PNG, JPEG or WebP, or has too many bytes or pixels.
    """
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"a file of more than {MAX_BYTES:,} bytes")
    with _opened(path) as image:
        return image.width, image.height


def decode(data: bytes) -> Image.Image:
    """A picture, upright and RGB.

    Raises:
        ValueError: it is no PNG, JPEG or WebP, has too many pixels, or is damaged.
    """
    with _opened(io.BytesIO(data)) as image:
        try:
            return ImageOps.exif_transpose(image).convert("RGB")
        except (OSError, SyntaxError, ValueError) as error:
            raise ValueError(f"a damaged picture: {error}") from error


def deliver(image: Image.Image, request: Request, marked: bool = False) -> Image.Image:
    """Resize and mark an image as a product would before it hands it out.

    Args:
        marked: it carries the request's mark already, from its initial noise.

    Raises:
        AuditError: the mark is of that kind and the image was made without it.
    """
    if request.deliver_size:
        image = image.resize((request.deliver_size,) * 2, Image.Resampling.BICUBIC)
    if request.watermark and not marked:
        refuse_noise_mark(request, "only the backend stable-diffusion sets it")
        codec: Callable[[], Any] = plugins.load("watermarks", request.watermark)
        image = codec().embed(image)
    return image


def _opened(source: Path | io.BytesIO) -> Image.Image:
    try:
        image = Image.open(source, formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError("a picture of too many pixels") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError("not a PNG, JPEG or WebP picture") from error
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise ValueError(f"a picture of {image.width}×{image.height} pixels: refused")
    return image
