"""What may befall a marked image, each with an axis of strength: the registry of attacks.

The families are those of WAVES (An et al. 2024, section 3.2): geometry, photometry, degradation and
their combination. Regeneration, which needs a model, is :mod:`safety.watermarks.regeneration`;
marks that are forged instead of removed are :mod:`safety.watermarks.spoofing`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

from audit.errors import AuditError
from audit.plugins import did_you_mean
from safety import perturbations as change

Apply = Callable[[Image.Image, float, int], Image.Image]


@dataclass(frozen=True)
class Attack:
    """An attack on images.

    Attributes:
        name: unique in the registry.
        strengths: at which it is tried, the weakest first, in the unit of the field: a quality or
            a scale falls where the attack grows stronger.
        apply: image, strength and seed → the attacked image, RGB; the same for the same seed.
        unit: what a strength is.
        identity: the strength that changes nothing, where there is one.
    """

    name: str
    strengths: tuple[float, ...]
    apply: Apply
    unit: str = "strength"
    identity: float | None = None


def combined(name: str, steps: Sequence[tuple[Attack, Sequence[float]]]) -> Attack:
    """Attacks one after another, at equal ranks of their strengths.

    The combination's strength k, 1 … K, stands for the k-th strength of every step.

    Args:
        steps: attacks, each with K strengths, the weakest first.

    Raises:
        AuditError: the steps have different numbers of strengths, or `apply` is asked for a
            strength that is none of 1 … K.
    """
    counts = {len(strengths) for _, strengths in steps}
    if len(counts) != 1 or counts == {0}:
        raise AuditError(f"attack '{name}': each step needs as many strengths as the others")
    last = counts.pop()

    def apply(image: Image.Image, strength: float, seed: int) -> Image.Image:
        if strength not in range(1, last + 1):
            raise AuditError(f"attack '{name}': a strength is one of 1…{last}, not {strength:g}")
        for attack, strengths in steps:
            image = attack.apply(image, strengths[int(strength) - 1], seed)
        return image

    parts = " → ".join(
        f"{attack.name} {', '.join(f'{strength:g}' for strength in strengths)}"
        for attack, strengths in steps
    )
    return Attack(
        name, tuple(float(rank) for rank in range(1, last + 1)), apply, f"rank of {parts}"
    )


def _plain(
    name: str,
    unit: str,
    strengths: tuple[float, ...],
    change: Callable[[Image.Image, float], Image.Image],
    identity: float | None = None,
) -> Attack:
    """An attack without chance."""
    return Attack(name, strengths, lambda image, s, _: change(image, s), unit, identity)


def _times(image: Image.Image, strength: float) -> Image.Image:
    """Mirrored as often as `strength` says."""
    if not (strength >= 0 and strength % 1 == 0):
        raise AuditError(f"an image is mirrored a whole number of times, not {strength:g}")
    return change.mirrored(image) if strength % 2 else image.convert("RGB")


_QUALITY = (95.0, 90.0, 75.0, 50.0, 25.0, 10.0)
_SINGLE = (
    _plain("jpeg", "quality, chroma 4:2:0", _QUALITY, change.jpeg),
    _plain("jpeg-444", "quality, chroma 4:4:4", _QUALITY, lambda i, s: change.jpeg(i, s, "4:4:4")),
    _plain("webp", "quality", _QUALITY, change.webp),
    _plain("resize", "share of each side, and back", (0.9, 0.75, 0.5, 0.25), change.resized, 1.0),
    _plain(
        "crop",
        "share of each side kept, enlarged back",
        (0.95, 0.9, 0.75, 0.5),
        change.cropped,
        1.0,
    ),
    _plain(
        "cut", "share of each side kept, not enlarged", (0.99, 0.95, 0.9, 0.75), change.cut, 1.0
    ),
    _plain("rotate", "degrees anticlockwise", (1.0, 2.0, 5.0, 15.0, 45.0), change.rotated, 0.0),
    _plain("flip", "times mirrored left to right", (1.0,), _times, 0.0),
    _plain("blur", "σ in pixels", (0.5, 1.0, 2.0, 4.0), change.blurred, 0.0),
    Attack("noise", (2.0, 5.0, 10.0, 20.0, 40.0), change.noisy, "σ of 255", 0.0),
    _plain("brighter", "factor", (1.1, 1.2, 1.5, 2.0), change.brightened, 1.0),
    _plain("darker", "factor", (0.9, 0.8, 0.65, 0.5), change.brightened, 1.0),
    _plain("contrast", "factor", (1.1, 1.2, 1.5, 2.0), change.contrasted, 1.0),
    _plain("fade", "factor of saturation", (0.8, 0.5, 0.25, 0.0), change.saturated, 1.0),
    _plain("saturate", "factor of saturation", (1.25, 1.5, 2.0, 3.0), change.saturated, 1.0),
    _plain("border", "share of each side, white", (0.01, 0.02, 0.05, 0.1), change.bordered, 0.0),
    Attack("overlay", (0.02, 0.05, 0.1, 0.25), change.overlaid, "share of the area, white", 0.0),
    _plain("screenshot", "scale on the screen", (1.0, 0.9, 0.75, 0.5), change.screenshot),
)
_BY_NAME = {attack.name: attack for attack in _SINGLE}

ATTACKS: Mapping[str, Attack] = _BY_NAME | {
    attack.name: attack
    for attack in (
        combined(
            "resize-jpeg",
            [(_BY_NAME["resize"], (0.9, 0.75, 0.5)), (_BY_NAME["jpeg"], (90.0, 75.0, 50.0))],
        ),
        combined(
            "crop-brighter-jpeg",
            [
                (_BY_NAME["crop"], (0.95, 0.9, 0.75)),
                (_BY_NAME["brighter"], (1.1, 1.2, 1.5)),
                (_BY_NAME["jpeg"], (90.0, 75.0, 50.0)),
            ],
        ),
        combined(
            "blur-noise-jpeg",
            [
                (_BY_NAME["blur"], (0.5, 1.0, 2.0)),
                (_BY_NAME["noise"], (2.0, 5.0, 10.0)),
                (_BY_NAME["jpeg"], (90.0, 75.0, 50.0)),
            ],
        ),
    )
}


def attack_of(name: str, among: Iterable[Attack] = ATTACKS.values()) -> Attack:
    """The attack of this name.

    Raises:
        AuditError: there is none.

    >>> attack_of("jpeg").strengths[:2]
    (95.0, 90.0)
    """
    known = {attack.name: attack for attack in among}
    if name not in known:
        raise AuditError(
            f"no attack '{name}'{did_you_mean(name, known)}; there are: {', '.join(known)}"
        )
    return known[name]
