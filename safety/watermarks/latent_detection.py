"""Marks of the initial noise in a run: the detector, and what is read from its scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from audit import plugins
from audit.detectors.base import Batch
from audit.errors import AuditError
from audit.plugins import did_you_mean
from audit.store import column_safe

from .codecs import Match
from .latent import STEPS, LatentMark
from .readings import Reading

if TYPE_CHECKING:
    from audit.study import Study

NAME = "latent-watermark"


def marks_of(study: Study) -> tuple[str, ...]:
    """Which marks of the noise are asked for: ``detectors: latent-watermark: {marks: [name]}``.

    Raises:
        AuditError: an unknown option or mark.
    """
    options, known = study.detector_options(NAME), ("marks", "steps")
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


class LatentWatermarkDetector:
    """Inverts every image with the model that made it, and looks for marks in the noise.

    Columns, for each mark of the settings, dashes as underscores:
        <mark>_statistic: −log₁₀ of its p-value.
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
        self._steps = int(study.detector_options(NAME).get("steps", STEPS))
        spec = study.spec
        backend = open_backend(spec.model, spec.device, spec.dtype, spec.backend)
        if not isinstance(backend, StableDiffusion):
            raise AuditError("marks of the noise are read with the model itself, by its inversion")
        self._backend = backend

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
            "model": self._backend.describe().get("weights"),
            "versions": {name: version(name) for name in ("torch", "diffusers", "numpy")},
            "known_error": "none by itself: the analysis reports the rate on clean images",
        }

    def detect(self, batch: Batch) -> Mapping[str, Sequence[Any]]:
        """See :class:`audit.detectors.Detector`."""
        from audit.backends.inversion import invert

        columns: dict[str, list[Any]] = {
            f"{column_safe(name)}_statistic": [None] * len(batch) for name in self._marks
        }
        sizes: dict[tuple[int, int], list[int]] = {}
        for place, item in enumerate(batch):
            image: Image.Image = item.image
            asked = item.asked
            made = (image.height, image.width) if asked is None else (asked.height, asked.width)
            sizes.setdefault(made, []).append(place)
        for size, places in sizes.items():
            images = [batch[place].image for place in places]
            latents = invert(self._backend, images, self._steps, len(images), None, size)
            for name, mark in self._marks.items():
                values = mark.statistic(latents)
                for place, value in zip(places, values.tolist(), strict=True):
                    columns[f"{column_safe(name)}_statistic"][place] = value
        return columns


class LatentReading(Reading):
    """One mark of the noise, read from the images of one delivery."""

    @cached_property
    def columns(self) -> dict[str, str]:
        """Its one statistic."""
        name = f"latent_watermark_{column_safe(self.codec)}_statistic"
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
