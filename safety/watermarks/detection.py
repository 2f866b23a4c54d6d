"""Is a mark there? Matched bits, their exact p-values, and the detector that stores the former."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from hashlib import sha256
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from scipy.stats import binom

from audit import plugins
from audit.detectors.base import Batch
from audit.store import column_safe

from .attacks import jpeg
from .codecs import LEAST_PIXELS, Codec

if TYPE_CHECKING:
    from audit.study import Study

ATTACKS: dict[str, Callable[[Image.Image], Image.Image]] = {"jpeg90": partial(jpeg, quality=90)}


def p_value(matches: ArrayLike, bits: ArrayLike) -> NDArray[np.float64]:
    """P(M ≥ matches), M ~ Binomial(bits, ½): how likely an unmarked image matches as well.

    It holds for a message drawn at random after the image was made. The bits of real, unmarked
    images are not fair coins, so a fixed message can do better or worse: whoever relies on a
    p-value looks at the realised rate on clean images too.

    >>> float(p_value(32, 32)) == 2.0**-32, float(p_value(0, 32))
    (True, 1.0)
    """
    m, n = _checked(matches, bits)
    p: NDArray[np.float64] = binom.sf(m - 1, n, 0.5)
    return p


def inversion(matches: ArrayLike, bits: ArrayLike) -> NDArray[np.float64]:
    """P(M ≤ matches): small when nearly every bit is the opposite of the message.

    An inverted mark is a mark: encoder and decoder disagree on a sign or an offset, as between
    diffusers' own SDXL watermarker and the decoders in use.

    >>> float(inversion(0, 32)) == 2.0**-32
    True
    """
    m, n = _checked(matches, bits)
    return p_value(n - m, n)


def _checked(matches: ArrayLike, bits: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    m, n = np.asarray(matches), np.asarray(bits)
    if np.any(n < 1) or np.any(m < 0) or np.any(m > n):
        raise ValueError("matches must lie in 0…bits, and bits must be at least 1")
    return m, n


class WatermarkDetector:
    """Reads every known watermark from every image.

    Columns, for each codec of ``plugins.names("watermarks")``, dashes as underscores:
        <codec>_bits: the length of its message.
        <codec>_matches: how many bits agree with it; ``None`` under 256×256 pixels.
        <codec>_jpeg90_matches: the same after JPEG at quality 90.
    """

    name = "watermark"

    def __init__(self, study: Study) -> None:
        self._codecs: dict[str, Codec] = {
            name: plugins.load("watermarks", name)() for name in plugins.names("watermarks")
        }

    def describe(self) -> Mapping[str, Any]:
        """See :class:`audit.detectors.Detector`."""
        return {
            "codecs": {
                # The message's hash only: a product's message may be its secret.
                name: {
                    "bits": len(codec.bits),
                    "message_sha256": sha256(codec.bits.tobytes()).hexdigest(),
                }
                for name, codec in self._codecs.items()
            },
            "attacks": list(ATTACKS),
            "versions": {name: version(name) for name in ("numpy", "pillow")},
            "known_error": "none by itself: the analysis reports the rate on clean images",
        }

    def detect(self, batch: Batch) -> Mapping[str, Sequence[Any]]:
        """See :class:`audit.detectors.Detector`."""
        columns: dict[str, list[int | None]] = {}
        for image in batch.images:
            large = image.width * image.height >= LEAST_PIXELS
            versions = {"": image} | {
                f"{name}_": attack(image) for name, attack in ATTACKS.items() if large
            }
            for name, codec in self._codecs.items():
                column = column_safe(name)
                columns.setdefault(f"{column}_bits", []).append(len(codec.bits))
                for attack in ("", *(f"{name}_" for name in ATTACKS)):
                    matches = None
                    if large:
                        matches = int((codec.decode(versions[attack]) == codec.bits).sum())
                    columns.setdefault(f"{column}_{attack}matches", []).append(matches)
        return columns
