"""Codecs: what marks an image and what reads the mark, as the products' own scripts do."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from audit.errors import AuditError

from . import dwtdct

LEAST_PIXELS = 256 * 256
"""invisible-watermark refuses smaller images: too few blocks for the message."""

METHODS = ("dwtDct", "dwtDctSvd")


class Codec(Protocol):
    """A watermark with a fixed message; made by a factory without arguments."""

    name: str
    bits: NDArray[np.bool_]
    """The message, shape (n,)."""

    def embed(self, image: Image.Image) -> Image.Image:
        """A marked copy."""

    def decode(self, image: Image.Image) -> NDArray[np.bool_]:
        """The n bits read from an image, marked or not."""


class InvisibleWatermark:
    """A mark of the package invisible-watermark.

    Args:
        name: of the codec.
        message: the bytes that are embedded, most significant bit first.
        method: ``dwtDct``, as in the Stable Diffusion scripts, or the sturdier ``dwtDctSvd``.

    Raises:
        AuditError: from `embed` and `decode`, for an image of fewer than 256×256 pixels.
    """

    def __init__(self, name: str, message: bytes, method: str = "dwtDct") -> None:
        if method not in METHODS or not message:
            raise AuditError(f"a watermark needs a message and a method of {', '.join(METHODS)}")
        self.name, self.message, self.method = name, message, method
        self.bits: NDArray[np.bool_] = np.unpackbits(np.frombuffer(message, np.uint8)).astype(bool)

    def embed(self, image: Image.Image) -> Image.Image:
        """A marked copy, RGB."""
        bgr = self._bgr(image)
        if self.method == "dwtDct":
            marked = dwtdct.embed(bgr, self.bits)
        else:
            from imwatermark import WatermarkEncoder  # imports torch: only where it is needed

            encoder = WatermarkEncoder()
            encoder.set_watermark("bits", self.bits.tolist())
            marked = encoder.encode(bgr, self.method)
        return Image.fromarray(np.ascontiguousarray(marked[:, :, ::-1]))

    def decode(self, image: Image.Image) -> NDArray[np.bool_]:
        """The bits that the image holds, shape (n,)."""
        bgr = self._bgr(image)
        if self.method == "dwtDct":
            return dwtdct.read(bgr, len(self.bits))
        from imwatermark import WatermarkDecoder

        decoder = WatermarkDecoder("bits", len(self.bits))
        return np.asarray(decoder.decode(bgr, self.method), dtype=bool)

    def _bgr(self, image: Image.Image) -> NDArray[np.uint8]:
        if image.width * image.height < LEAST_PIXELS:
            raise AuditError(
                f"an image of {image.width}×{image.height} pixels is too small for the watermark "
                f"'{self.name}': it needs 256×256; deliver it larger"
            )
        # The scripts read with OpenCV: blue first.
        return np.ascontiguousarray(np.asarray(image.convert("RGB"))[:, :, ::-1])


def stable_diffusion_v1() -> InvisibleWatermark:
    """``scripts/txt2img.py`` of CompVis/stable-diffusion: 136 bits."""
    return InvisibleWatermark("sd-v1", b"StableDiffusionV1")


def stable_diffusion_v2() -> InvisibleWatermark:
    """``scripts/txt2img.py`` of Stability-AI/stablediffusion: 32 bits."""
    return InvisibleWatermark("sd-v2", b"SDV2")
