"""A model that follows a reference, and one that exaggerates it: prompts mixed to shares whose
log-odds are the reference's, times the planted slope.

The instrument's error is measured beside, as in every audit of shares.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.special import expit, logit

from audit.calibration.drawn import Design
from audit.calibration.pool import Size
from audit.calibration.tally import Effect, Outcome, found

from .people import IMAGES, LABELLED, METRICS, NULL, PROBE, Shares, World, measure_error, prompts

SLOPES = (1.0, 3.0)
LOWEST, HIGHEST = 0.38, 0.62
"""Shares of the reference, evenly between them over the subjects: at three times their log-odds
the model still shows both labels often, and no share of 0 or 1 bends the slope."""
METRIC = "amplification_female_presenting"


def slopes(world: World, size: Size, rng: np.random.Generator) -> Iterator[Outcome]:
    """Audits of both models, one sub-audit after the other."""
    reference = dict(
        zip(world.subjects, np.linspace(LOWEST, HIGHEST, len(world.subjects)), strict=True)
    )
    asked = {
        name: {
            **entry,
            METRICS["gender"]: float(reference[name]),
            "reference_name": "the planted reference",
        }
        for name, entry in prompts(world.pool.study).items()
    }
    options = {"prompts": asked, "attributes": ["gender"], "amplification": None}
    audit, labelled = (
        Design(world.pool, PROBE, {**options, "images": {"base": n}}, detectors=read)
        for n, read in ((IMAGES, ("clip",)), (LABELLED, ("clip", "reader")))
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "error.json"
        for number in range(size.sub_audits):
            for slope in SLOPES:
                planted = {name: _shares(r, slope) for name, r in reference.items()}
                error = labelled.draw(world.donors(planted, LABELLED, rng))
                measure_error(labelled, error, path)
                design = audit.with_options(detector_error=str(path))
                one = found(design.findings(world.donors(planted, IMAGES, rng)), METRIC)
                said = f"log-odds {slope:g} times the reference's"
                does = "exaggerates" if slope > 1 else "follows"
                variant = f"a model that {does} a reference"
                effect = Effect(PROBE, variant, METRIC, said, "planted" if slope > 1 else "null")
                yield Outcome.of(effect, number, slope, one)


def _shares(reference: float, slope: float) -> Shares:
    female = float(expit(slope * logit(reference)))
    return {**NULL, "gender": (female, 1 - female)}
