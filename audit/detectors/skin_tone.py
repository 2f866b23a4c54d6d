"""The tone of the skin as a picture shows it: Monk scale, ITA, lightness, hue."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

from .base import Batch
from .colour import ciede2000, lab
from .faces import Face, Faces, face_settings, faces_of, largest

if TYPE_CHECKING:
    from audit.study import Study

MONK = (
    *("f6ede4", "f3e7db", "f7ead0", "eadaba", "d7bd96"),
    *("a07e56", "825c43", "604134", "3a312a", "292420"),
)
"""The ten swatches of the Monk Skin Tone scale (Monk 2019), sRGB, lightest first."""
_SWATCHES = lab([list(bytes.fromhex(swatch)) for swatch in MONK])

CHEEKS = (0.35, 0.75)
"""Where the patch begins and ends on the way from an eye to the corner of the mouth below it."""
BESIDE = 0.15
"""What the patch reaches beyond these lines, as a share of the distance between them."""


@dataclass(frozen=True)
class Tone:
    """The tone of a patch of pixels.

    Attributes:
        monk: 1 (lightest) to 10: the nearest swatch of the Monk scale.
        monk_distance: ΔE00 to it; 6 to 13 on photographs, whose light is warmer than the swatches.
        ita: individual typology angle in degrees, arctan((L* − 50)/b*) (Chardon et al. 1991).
        lightness: L*, 0 to 100.
        hue: the angle of (a*, b*) in degrees, 0 red, 90 yellow.
        chroma: the length of (a*, b*).
        pixels: how many were seen.
    """

    monk: int
    monk_distance: float
    ita: float
    lightness: float
    hue: float
    chroma: float
    pixels: int


class SkinTone:
    """The tone of the skin of the largest face.

    Columns: those of :class:`Tone`; NaN where the detector ``faces`` counts no face, and where the
    face is too small to have a pixel of skin.

    The patch lies on the cheeks and the nose: the quadrilateral that begins at 35% and ends at
    75% of the way from each eye to the corner of the mouth below it, widened by 15% of its width
    on either side. It leaves out eyes, brows, mouth, forehead and hair; the median of each of L*,
    a* and b* disregards what covers less than half of it: shadow, highlight, beard, rims of
    glasses.

    It measures the picture, not a person: light, exposure and make-up are part of it, and no white
    balance is guessed. It says nothing of a Fitzpatrick type, which is a response to ultraviolet
    light. ITA alone confounds light and hue, so lightness and hue angle stand beside it (Thong,
    Joniak, Xiang 2023).
    """

    name = "skin-tone"

    def __init__(self, study: Study) -> None:
        Faces(study)

    unavailable = staticmethod(Faces.unavailable)

    def describe(self) -> Mapping[str, Any]:
        """See :class:`audit.detectors.Detector`."""
        return {
            "patch": f"{CHEEKS[0]:.0%} to {CHEEKS[1]:.0%} from eye to mouth, {BESIDE:.0%} wider",
            "colour": "median CIELAB (D65, 2°) of sRGB; nearest Monk swatch by CIEDE2000",
            "swatches": list(MONK),
            "faces": face_settings(),
            "known_error": "the ten flat Monk swatches are told exactly; on photographs the light "
            "of the scene is part of the tone",
        }

    def detect(self, batch: Batch) -> Mapping[str, Sequence[Any]]:
        """See :class:`audit.detectors.Detector`."""
        tones = [
            tone(skin_pixels(image, face)) if (face := largest(faces)) else None
            for image, faces in zip(batch.images, faces_of(batch), strict=True)
        ]
        return {
            name: [float(getattr(found, name)) if found else math.nan for found in tones]
            for name in Tone.__dataclass_fields__
        }


def tone(pixels: ArrayLike) -> Tone | None:
    """The tone of a patch of skin; ``None`` where there is no pixel.

    The nearest swatch is told by CIEDE2000: the Euclidean distance in CIELAB overrates differences
    of chroma at the chroma of skin, so that warm light would shift the scale.

    Args:
        pixels: sRGB, shape (n, 3), 0 to 255.

    Raises:
        ValueError: it has another shape.

    >>> tone([[160, 126, 86]]).monk, round(tone([[160, 126, 86]]).ita)
    (6, 11)
    """
    seen = np.asarray(pixels, float)
    if seen.ndim != 2 or seen.shape[1] != 3:
        raise ValueError(f"pixels have shape (n, 3), not {seen.shape}")
    if not len(seen):
        return None
    middle = np.median(lab(seen), axis=0)
    distances = ciede2000(middle, _SWATCHES)
    lightness, a, b = middle.tolist()
    return Tone(
        monk=int(distances.argmin()) + 1,
        monk_distance=float(distances.min()),
        # The two-argument form: its sign holds where b* is 0 or negative, in blue light.
        ita=math.degrees(math.atan2(lightness - 50, b)),
        lightness=lightness,
        hue=math.degrees(math.atan2(b, a)) % 360,
        chroma=math.hypot(a, b),
        pixels=len(seen),
    )


def skin_pixels(image: Image.Image, face: Face) -> NDArray[np.uint8]:
    """The pixels of cheeks and nose, shape (n, 3), sRGB; see :class:`SkinTone`."""
    left_eye, right_eye, _, left_mouth, right_mouth = face.landmarks
    corners = []
    for share in CHEEKS:
        left = left_eye + share * (left_mouth - left_eye)
        right = right_eye + share * (right_mouth - right_eye)
        beside = BESIDE * (right - left)
        corners.append((left - beside, right + beside))
    (top_left, top_right), (bottom_left, bottom_right) = corners
    outline = [tuple(p.tolist()) for p in (top_left, top_right, bottom_right, bottom_left)]
    mask = Image.new("1", image.size)
    ImageDraw.Draw(mask).polygon(outline, fill=1)
    pixels: NDArray[np.uint8] = np.asarray(image.convert("RGB"))[np.asarray(mask)]
    return pixels
