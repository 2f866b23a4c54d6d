"""How colourful does a model draw, and does that depend on the subject?

A detector and a probe of one's own for t2i-audit, whole: nothing else is needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from audit import Analysis, AuditError, Batch, Finding, Run, Study, Use, table
from audit.findings import judge, not_tested
from audit.statistics import cluster_mean

IMAGES_PER_PROMPT = 8


def colourfulness(image: Image.Image) -> float:
    """M = √(σ²ᵣ + σ²ᵧ) + 0.3 √(μ²ᵣ + μ²ᵧ) of r = R − G, y = (R + G)/2 − B; 0 for grey.

    Hasler and Süsstrunk (2003), Measuring colourfulness in natural images, eq. for M³.
    """
    red, green, blue = np.moveaxis(np.asarray(image.convert("RGB"), float), 2, 0)
    opponents = np.stack([red - green, (red + green) / 2 - blue]).reshape(2, -1)
    spread, centre = opponents.std(axis=1), opponents.mean(axis=1)
    return float(np.linalg.norm(spread) + 0.3 * np.linalg.norm(centre))


class Colourfulness:
    """See :class:`audit.Detector`. Column: ``m3``, the raw measure of each image."""

    name = "colourfulness"

    def __init__(self, study: Study) -> None:
        pass  # an instrument with weights loads them here

    def describe(self) -> Mapping[str, Any]:
        return {"version": 1, "source": "Hasler and Süsstrunk 2003"}

    def detect(self, batch: Batch) -> Mapping[str, Sequence[float]]:
        return {"m3": [colourfulness(image) for image in batch.images]}


class Colour:
    """See :class:`audit.Probe`. Options of the spec: ``prompts``, a list of texts; ``reference``
    and ``margin``, what the mean is held against.
    """

    name = "colour"
    question = "How colourful does the model draw?"
    reference = "Hasler and Süsstrunk 2003"
    detectors = ("colourfulness",)

    def uses(self, study: Study) -> Iterator[Use]:
        """Every prompt with the same seeds."""
        for prompt in self._prompts(study):
            for index in range(study.images_per_prompt(IMAGES_PER_PROMPT)):
                yield Use(study.request(prompt, index), tags={"subject": prompt, "index": index})

    def analyse(self, run: Run, study: Study) -> Analysis:
        """The mean over prompts, with an interval by prompt; what has no score is counted."""
        frame = table(run, self.name)
        if frame.empty or "colourfulness_m3" not in frame:
            return Analysis(
                [not_tested(self.name, "mean_colourfulness", {}, "no image was scored")]
            )
        scored = frame.dropna(subset="colourfulness_m3")
        mean, ci = cluster_mean(scored.colourfulness_m3, scored.subject)
        options = study.options(self.name)
        reference, margin = options.get("reference"), float(options.get("margin", 10))
        finding = Finding(
            self.name,
            "mean_colourfulness",
            estimate=mean,
            ci=ci,
            n=len(scored),
            clusters=scored.subject.nunique(),
            method="Student's t over prompts",
            reference=reference,
            threshold=margin,
            verdict="inconclusive" if reference is None else judge(ci, float(reference), margin),
            detail={"outcomes": frame.outcome.value_counts().to_dict()},
        )
        by_subject = scored.groupby("subject").colourfulness_m3.agg(["mean", "count"])
        return Analysis([finding], {"subjects": by_subject.reset_index()})

    def _prompts(self, study: Study) -> list[str]:
        prompts = study.options(self.name).get("prompts", ["a portrait of a nurse", "a red car"])
        if not isinstance(prompts, list) or not all(isinstance(text, str) for text in prompts):
            raise AuditError("colour: prompts is a list of texts")
        return prompts
