"""Alignment that another scheduler keeps, and that it loses.

And a mix of guidance scales (:mod:`probes.trials.distances`).

The images are those of the languages' trials: what a scheduler would lose is filled from the
starved language, whose images are held against the same English text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from audit.calibration.drawn import Design
from audit.calibration.pool import Pool, Size
from audit.calibration.tally import Answer, Effect, Outcome, found
from audit.study import Study

from . import distances
from .languages import LOST, Cells

PROBE = "quality"
IMAGES = 4
OTHER = "ddim"


class QualityTrials:
    """See :class:`audit.calibration.pool.Trials`."""

    models = ("phantom",)
    images_of: tuple[str, ...] = ("demographics", "languages")
    detectors = ("clip",)

    def asked(self, study: Study, size: Size) -> tuple[Mapping[str, Any], int | None]:
        """The suite's prompts at a stronger guidance."""
        return distances.asked(distances.STRONG, max(2, size.seeds // 2)), None

    def outcomes(self, pools: Mapping[str, Pool], size: Size) -> Iterator[Answer]:
        """Alignment, then the distance to pictures."""
        pool = pools["phantom"]
        yield from alignments(pool, size, np.random.default_rng(3))
        yield from distances.cmmd(pool, size, np.random.default_rng(12))


def alignments(pool: Pool, size: Size, rng: np.random.Generator) -> Iterator[Outcome]:
    """The mean, and the difference to another scheduler, prompts and seeds drawn."""
    cells = Cells(pool)
    prompts = list(pool.study.suite.section(PROBE)["prompts"])[: cells.contents]
    options = {"prompts": prompts, "images": IMAGES, "schedulers": [OTHER], "reference": {}}
    options["guidance"] = [cells.pool.study.sampler["guidance"]]
    design = Design(cells.pool, PROBE, options)
    mean = float(cells.alignment["en"].mean())
    gap = float(cells.alignment[LOST].mean()) - mean
    for number in range(size.sub_audits):
        for language, planted in (("en", 0.0), (LOST, gap)):
            findings = design.findings(_donors(design, cells, prompts, language, rng))
            said = "another scheduler that loses" if planted else "another scheduler at parity"
            effect = Effect(
                PROBE, said, "scheduler_alignment_gap", said, "planted" if planted else "null"
            )
            one = found(findings, "scheduler_alignment_gap", scheduler=OTHER)
            yield Outcome.of(effect, number, planted, one)
        effect = Effect(PROBE, "prompts and seeds drawn", "alignment", "mean over prompts")
        yield Outcome.of(effect, number, mean, found(findings, "alignment"))


def _donors(
    design: Design, cells: Cells, prompts: list[str], language: str, rng: np.random.Generator
) -> list[str | None]:
    contents = dict(zip(prompts, rng.choice(cells.contents, len(prompts)), strict=True))
    seeds = rng.choice(cells.seeds, (2, len(prompts), IMAGES))
    donors: list[str | None] = [None] * design.requests
    for use in design.uses.to_dict("records"):
        other = use["part"] == "scheduler"
        seed = seeds[int(other), prompts.index(use["prompt"]), use["index"]]
        of = language if other else "en"
        donors[use["place"]] = cells.requests[of][contents[use["prompt"]], seed]
    return donors
