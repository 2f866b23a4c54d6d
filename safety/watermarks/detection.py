"""Is a mark there? Matched bits of many images, what they are worth, and the run's detector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from audit.detectors.base import Batch
from audit.errors import AuditError
from audit.store import column_safe

from .attacks import ATTACKS
from .codecs import Codec, agreement, check_message, is_black, matched, surest
from .settings import Settings, codecs_of, settings

if TYPE_CHECKING:
    from audit.study import Study

    from .calibration import Calibration


@dataclass(frozen=True)
class Detection:
    """One mark looked for in many images; arrays have shape (images,), in their order.

    Attributes:
        mark: the codec's name; `bits` the length of its message.
        state: ``read``; or why an image could not be: ``black``, ``small``.
        matches, domain, inverted: of the surest test; meaningless unless `state` is ``read``.
        nominal_p: binomial, corrected for domains and polarities; NaN where nothing was read.
        calibrated_p: from clean images; NaN where nothing was read or there is no calibration.
    """

    mark: str
    bits: int
    domains: tuple[str, ...]
    state: NDArray[np.str_]
    matches: NDArray[np.int64]
    domain: NDArray[np.str_]
    inverted: NDArray[np.bool_]
    nominal_p: NDArray[np.float64]
    calibrated_p: NDArray[np.float64]

    @property
    def kind(self) -> str:
        """Of :attr:`p`: ``calibrated`` where there is a calibration, else ``nominal``."""
        return "nominal" if np.isnan(self.calibrated_p).all() else "calibrated"

    @property
    def p(self) -> NDArray[np.float64]:
        """The p-value to decide by."""
        return self.nominal_p if self.kind == "nominal" else self.calibrated_p


def detect(
    codec: Codec, images: Sequence[Image.Image], calibration: Calibration | None = None
) -> Detection:
    """Look for a codec's mark in images of any sizes.

    The measured null is that of the surest test, so it needs no correction for their number; the
    nominal p-value does, and has it. Neither is corrected for other marks or other images.

    Raises:
        AuditError: the codec has no message to compare with and does not check itself, or the
            calibration is another's.
    """
    check_message(codec)
    states = _states(images, [is_black(image) for image in images], codec.smallest)
    readable = np.flatnonzero(states == "read")
    if calibration is not None:
        from .calibration import key_of

        calibration.check_owner(codec.name, key_of(codec.bits))
    total = len(images)
    matches, inverted = np.zeros(total, np.int64), np.zeros(total, bool)
    nominal, calibrated = np.full(total, np.nan), np.full(total, np.nan)
    domain = np.full(total, "", dtype="<U32")
    if len(readable):
        found = matched(codec, codec.decode([images[int(place)] for place in readable]))
        matches[readable], inverted[readable] = found.matches, found.inverted
        nominal[readable] = found.p
        domain[readable] = np.array(codec.domains)[found.domain]
        if calibration is not None:
            calibrated[readable] = calibration.null.p(found.matches)
    return Detection(
        codec.name,
        len(codec.bits),
        tuple(codec.domains),
        states,
        matches,
        domain,
        inverted,
        nominal,
        calibrated,
    )


def count(
    codec: Codec, images: Sequence[Image.Image], wanted: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Agreeing bits in each domain, shape (images, domains); −1 for images that are not `wanted`.

    Raises:
        AuditError: the codec has no message.
    """
    if not len(codec.bits):
        raise AuditError(f"the mark '{codec.name}' has no message to compare with: give one")
    counts = np.full((len(images), len(codec.domains)), -1, np.int64)
    places = np.flatnonzero(wanted)
    if len(places):
        counts[places] = agreement(codec.decode([images[int(i)] for i in places]), codec.bits)
    return counts


class WatermarkDetector:
    """Reads every asked mark from every image, and attacks the images that carry one.

    Columns, for each codec of the settings, dashes as underscores:
        black: see :func:`safety.watermarks.codecs.is_black`; nothing is read from such an image.
        <codec>_bits: the length of its message.
        <codec>_matches_<domain>: how many bits agree with it; ``None`` where it cannot be read.
        attacked: the mark that was read again after attacks: the one set on delivery, else one
            that the image carries by itself.
        attack_<attack>_<strength>_matches_<domain>: the same of the mark `attacked`.
    """

    name = "watermark"

    def __init__(self, study: Study) -> None:
        self._settings: Settings = settings(study)
        made, self._reasons = codecs_of(self._settings.codecs)
        self._codecs = {name: codec for name, codec in made.items() if len(codec.bits)}
        for name in made.keys() - self._codecs.keys():
            self._reasons[name] = "it has no message to compare with: give one"
        if self._reasons and not self._codecs:
            reasons = "; ".join(f"{name}: {why}" for name, why in self._reasons.items())
            raise AuditError(f"no watermark can be read: {reasons}")

    def describe(self) -> Mapping[str, Any]:
        """See :class:`audit.detectors.Detector`."""
        return {
            "codecs": {
                # The message's hash only: a product's message may be its secret.
                name: {
                    "bits": len(codec.bits),
                    "domains": list(codec.domains),
                    "message_sha256": sha256(codec.bits.tobytes()).hexdigest(),
                }
                for name, codec in self._codecs.items()
            },
            "left_out": dict(self._reasons),
            "attacks": {name: list(at) for name, at in self._settings.attacks.items()},
            "versions": {name: version(name) for name in ("numpy", "pillow")},
            "known_error": "none by itself: the analysis reports the rate on clean images",
        }

    def detect(self, batch: Batch) -> Mapping[str, Sequence[Any]]:
        """See :class:`audit.detectors.Detector`."""
        images = batch.images
        black = [is_black(image) for image in images]
        columns: dict[str, list[Any]] = {"black": list(black)}
        least = np.full(len(images), self._settings.carried / max(1, len(self._codecs)))
        carried: list[str | None] = [None] * len(images)
        for name, codec in self._codecs.items():
            states = _states(images, black, codec.smallest)
            counts = count(codec, images, states == "read")
            columns[f"{column_safe(name)}_bits"] = [len(codec.bits)] * len(images)
            columns |= _by_domain(f"{column_safe(name)}_matches", codec, counts)
            readable = np.flatnonzero(states == "read")
            for place, p in zip(readable, surest(counts[readable], len(codec.bits)).p, strict=True):
                if p <= least[place]:
                    least[place], carried[place] = p, name
        for number, item in enumerate(batch):
            delivered = item.asked.watermark if item.asked is not None else ""
            if delivered in self._codecs:
                carried[number] = delivered
        columns["attacked"] = carried
        return columns | self._after_attacks(batch, black, carried)

    def _after_attacks(
        self, batch: Batch, black: Sequence[bool], carried: Sequence[str | None]
    ) -> dict[str, list[Any]]:
        columns: dict[str, list[Any]] = {}
        domains = dict.fromkeys(d for codec in self._codecs.values() for d in codec.domains)
        for attack, strength in self._settings.each_attack:
            start = f"attack_{attack_column(attack, strength)}_matches"
            for domain in domains:
                columns[f"{start}_{domain}"] = [None] * len(batch)
            for name in dict.fromkeys(filter(None, carried)):
                codec = self._codecs[name]
                read = _states(batch.images, black, codec.smallest) == "read"
                places = [at for at in np.flatnonzero(read).tolist() if carried[at] == name]
                attacked = [
                    ATTACKS[attack].apply(
                        batch[place].image, strength, crc32(batch[place].request.encode())
                    )
                    for place in places
                ]
                fit = np.array([i.width * i.height >= codec.smallest for i in attacked], bool)
                counts = count(codec, attacked, fit)
                for column, values in _by_domain(start, codec, counts).items():
                    for place, value in zip(places, values, strict=True):
                        columns[column][place] = value
        return columns


def attack_column(attack: str, strength: float) -> str:
    """An attack at a strength as part of a column's or metric's name.

    >>> attack_column("jpeg", 90), attack_column("resize", 0.5)
    ('jpeg_90', 'resize_0_5')
    """
    return f"{column_safe(attack)}_{column_safe(f'{strength:g}')}"


def _by_domain(start: str, codec: Codec, counts: NDArray[np.int64]) -> dict[str, list[Any]]:
    return {
        f"{start}_{domain}": [None if value < 0 else int(value) for value in column]
        for domain, column in zip(codec.domains, counts.T, strict=True)
    }


def _states(
    images: Sequence[Image.Image], black: Sequence[bool], smallest: int
) -> NDArray[np.str_]:
    return np.array(
        [
            "small" if image.width * image.height < smallest else "black" if dark else "read"
            for image, dark in zip(images, black, strict=True)
        ],
        dtype="<U5",
    )
