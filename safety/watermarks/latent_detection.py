"""Marks of the initial noise in a run: the detector, and what is read from its scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from audit import plugins
from audit.detectors.base import Batch
from audit.errors import AuditError
from audit.plugins import did_you_mean
from audit.store import column_safe

from .attacks import ATTACKS
from .codecs import Match, is_black
from .detection import attack_column
from .latent import STEPS, LatentMark
from .readings import Attack, Reading
from .regeneration import NAMES as REGENERATIONS
from .regeneration import regeneration
from .settings import attacks_of, settings

if TYPE_CHECKING:
    from audit.study import Study

NAME = "latent-watermark"


def marks_of(study: Study) -> tuple[str, ...]:
    """Which marks of the noise are asked for: ``detectors: latent-watermark: {marks: [name]}``.

    Raises:
        AuditError: an unknown option or mark.
    """
    options, known = study.detector_options(NAME), ("attacks", "marks", "steps")
    for name in options:
        if name not in known:
            hint = did_you_mean(name, known)
            raise AuditError(
                f"detectors.{NAME}: no option '{name}'{hint}; there are: {', '.join(known)}"
            )
    asked, there = options.get("marks") or [], plugins.names("latent_watermarks")
    for name in asked if isinstance(asked, list) else [asked]:
        if name not in there:
            hint = did_you_mean(str(name), there)
            raise AuditError(
                f"detectors.{NAME}.marks is a list of {', '.join(there)}; no '{name}'{hint}"
            )
    return tuple(dict.fromkeys(asked))


def each_attack(study: Study) -> list[Attack]:
    """Which attacks a marked image gets, and how strong: option ``attacks``, otherwise those of the
    detector `watermark`; ``vae`` and ``img2img`` let the model itself draw the image anew.

    Raises:
        AuditError: an unknown attack, or no strengths.
    """
    asked = study.detector_options(NAME).get("attacks")
    if asked is None:
        return list(settings(study).each_attack)
    found = attacks_of(asked, f"detectors.{NAME}.attacks", REGENERATIONS)
    return [(name, strength) for name, strengths in found.items() for strength in strengths]


class LatentWatermarkDetector:
    """Inverts every image with the model that made it, and looks for marks in the noise; those that
    were made with a mark are attacked and looked at again.

    Columns, for each mark of the settings, dashes as underscores:
        black: see :func:`safety.watermarks.codecs.is_black`; nothing is read from such an image.
        <mark>_statistic: −log₁₀ of its p-value.
        attacked: the mark that the image was made with.
        attack_<attack>_<strength>_statistic: the same of the mark `attacked`.
    """

    name = NAME

    def __init__(self, study: Study) -> None:
        from audit.backends import open_backend
        from audit.backends.stable_diffusion import StableDiffusion

        self._marks: dict[str, LatentMark] = {}
        for name in marks_of(study):
            mark: LatentMark = plugins.load("latent_watermarks", name)()
            if mark.refusal:
                raise AuditError(f"the mark '{name}' is refused: {mark.refusal}")
            self._marks[name] = mark
        self._each_attack = each_attack(study)
        self._steps = int(study.detector_options(NAME).get("steps", STEPS))
        spec = study.spec
        backend = open_backend(spec.model, spec.device, spec.dtype, spec.backend)
        if not isinstance(backend, StableDiffusion):
            raise AuditError("marks of the noise are read with the model itself, by its inversion")
        self._backend = backend
        self._attacks = {one.name: one for one in (*ATTACKS.values(), *regeneration(backend))}

    @staticmethod
    def unavailable(study: Study) -> str | None:
        """Why there is nothing to read, or ``None``."""
        if study.model_path is None:
            return "marks of the noise are read with the model itself, which is not on this machine"
        return None if marks_of(study) else "no mark of the noise is asked for"

    def describe(self) -> Mapping[str, Any]:
        """See :class:`audit.detectors.Detector`."""
        return {
            "marks": {name: {"key_sha256": mark.key} for name, mark in self._marks.items()},
            "inversion_steps": self._steps,
            "attacks": [f"{name} {strength:g}" for name, strength in self._each_attack],
            "model": self._backend.describe().get("weights"),
            "versions": {name: version(name) for name in ("torch", "diffusers", "numpy")},
            "known_error": "none by itself: the analysis reports the rate on clean images",
        }

    def detect(self, batch: Batch) -> Mapping[str, Sequence[Any]]:
        """See :class:`audit.detectors.Detector`."""
        black = [is_black(image) for image in batch.images]
        seen = [None if dark else image for image, dark in zip(batch.images, black, strict=True)]
        carried = [
            item.asked.watermark if item.asked and item.asked.watermark in self._marks else None
            for item in batch
        ]
        columns: dict[str, list[Any]] = {"black": list(black), "attacked": list(carried)}
        for name, values in self._statistics(batch, seen).items():
            columns[f"{column_safe(name)}_statistic"] = values
        for attack, strength in self._each_attack:
            attacked = [
                self._attacks[attack].apply(image, strength, crc32(item.request.encode()))
                if image is not None and mark
                else None
                for item, image, mark in zip(batch, seen, carried, strict=True)
            ]
            found = self._statistics(batch, attacked)
            columns[f"attack_{attack_column(attack, strength)}_statistic"] = [
                found[mark][place] if mark else None for place, mark in enumerate(carried)
            ]
        return columns

    def _statistics(
        self, batch: Batch, images: Sequence[Image.Image | None]
    ) -> dict[str, list[float | None]]:
        """Of every mark; each image is inverted at the size that it was made at."""
        from audit.backends.inversion import invert

        found: dict[str, list[float | None]] = {name: [None] * len(batch) for name in self._marks}
        sizes: dict[tuple[int, int], dict[int, Image.Image]] = {}
        for place, (item, image) in enumerate(zip(batch, images, strict=True)):
            if image is not None:
                asked = item.asked
                made = (image.height, image.width) if asked is None else (asked.height, asked.width)
                sizes.setdefault(made, {})[place] = image
        for size, chosen in sizes.items():
            latents = invert(
                self._backend, list(chosen.values()), self._steps, len(chosen), None, size
            )
            for name, mark in self._marks.items():
                for place, value in zip(chosen, mark.statistic(latents).tolist(), strict=True):
                    found[name][place] = value
        return found


class LatentReading(Reading):
    """One mark of the noise, read from the images of one delivery."""

    detector = "latent_watermark"
    bits = 0

    @cached_property
    def columns(self) -> dict[str, str]:
        """Its one statistic."""
        name = f"latent_watermark_{column_safe(self.codec)}_statistic"
        if self.attack is not None:
            name = f"latent_watermark_attack_{attack_column(*self.attack)}_statistic"
        return {"latent": name} if name in self.frame else {}

    @cached_property
    def statistic(self) -> NDArray[np.float64]:
        """−log₁₀ p, shape (rows,)."""
        if self.rows.empty:
            return np.zeros(0)
        found: NDArray[np.float64] = self.rows[self.columns["latent"]].to_numpy(float)
        return found

    @cached_property
    def match(self) -> Match:
        """The p-values; there are no bits, domains or polarities to tell of."""
        mark: LatentMark = plugins.load("latent_watermarks", self.codec)()
        nothing = np.zeros(len(self.rows), np.int64)
        return Match(nothing, nothing, nothing.astype(bool), mark.nominal_p(self.statistic))

    @cached_property
    def domain(self) -> NDArray[np.str_]:
        """Of every row: the latent."""
        return np.array(["latent"] * len(self.rows), dtype=str)
