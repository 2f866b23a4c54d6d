"""The mark "rivaGan" of the package invisible-watermark: its two networks, run by onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from audit.detectors.models import onnx_session
from audit.errors import AuditError

from .codecs import LEAST_PIXELS, Bits, refuse_small, unpacked

LENGTH = 32
THRESHOLD = 0.52
"""invisible-watermark's: an output above it is a one."""


class RivaGan:
    """A mark of 32 bits by attention (Zhang et al. 2019, Robust Invisible Video Watermarking).

    Sturdier than dwtDct and a hundred times as slow: seconds an image of 512² on a core.

    Args:
        name: of the codec.
        message: four bytes, most significant bit first, or 32 bits.
    """

    domains: tuple[str, ...] = ("uint8",)
    smallest = LEAST_PIXELS

    def __init__(self, name: str, message: bytes | Bits) -> None:
        self.name = name
        self.bits: Bits = unpacked(message) if isinstance(message, bytes) else message
        if len(self.bits) != LENGTH:
            raise AuditError(f"rivaGan holds {LENGTH} bits, and '{name}' has {len(self.bits)}")

    def embed(self, image: Image.Image) -> Image.Image:
        """See :class:`Codec`."""
        refuse_small(image, self.smallest, self.name)
        given = {"frame": _frame(image), "data": self.bits[None].astype(np.float32)}
        marked = _session("encoder").run(None, given)[0][0, :, 0]
        bgr = ((marked.clip(-1, 1) + 1) * np.float32(127.5)).astype(np.uint8)
        return Image.fromarray(np.ascontiguousarray(bgr[::-1].transpose(1, 2, 0)))

    def decode(self, images: Sequence[Image.Image]) -> Bits:
        """See :class:`Codec`."""
        bits = np.zeros((len(images), 1, LENGTH), bool)
        for place, image in enumerate(images):
            refuse_small(image, self.smallest, self.name)
            bits[place, 0] = _session("decoder").run(None, {"frame": _frame(image)})[0] > THRESHOLD
        return bits


def _frame(image: Image.Image) -> NDArray[np.float32]:
    """Blue first, −1 to 1, shape (1, 3, 1, H, W)."""
    rgb = np.asarray(image.convert("RGB"), np.float32)
    scaled = rgb.transpose(2, 0, 1)[::-1] / np.float32(127.5) - 1
    return np.ascontiguousarray(scaled[None, :, None])


@cache
def _session(part: str) -> Any:
    found = find_spec("imwatermark")
    folder = Path(found.origin).parent if found and found.origin else Path()
    path = folder / f"rivagan_{part}.onnx"
    if not path.is_file():
        raise AuditError(
            f"rivaGan needs {path.name} of the package invisible-watermark: install it"
        )
    return onnx_session(path)
