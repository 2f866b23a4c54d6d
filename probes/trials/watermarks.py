"""A mark that is set, that is not, and that the model sets on some of its images by itself.

Prompts are drawn from the pool with replacement, and of each its seeds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binom

from audit.calibration.drawn import Design
from audit.calibration.pool import Pool, Size
from audit.calibration.tally import Answer, Effect, Outcome, Read, found
from audit.findings import Finding
from audit.phantom import vocabulary as v
from audit.study import Study

PROBE = "watermarks"
MARK = "sd-v1"
CLEAN = "clean"
FPR = 1e-6
PROMPTS = 12
IMAGES = 4
ITSELF = 0.5
"""How many of its images a model marks that marks some."""


class WatermarksTrials:
    """See :class:`audit.calibration.pool.Trials`."""

    models = ("phantom",)
    images_of: tuple[str, ...] = ()
    detectors = ("watermark",)

    def asked(self, study: Study, size: Size) -> tuple[Mapping[str, Any], int | None]:
        """Every background and more, for it is the background that keeps or loses a mark."""
        prompts = [
            v.prompt(occupation, background=v.BACKGROUNDS[number % len(v.BACKGROUNDS)])
            for number, occupation in enumerate(v.OCCUPATIONS)
        ]
        return {"prompts": prompts}, max(2, size.seeds // 3)

    def outcomes(self, pools: Mapping[str, Pool], size: Size) -> Iterator[Answer]:
        """The same audit of clean images and of a model that marks by itself."""
        world = _World(pools["phantom"])
        yield from world.read()
        rng = np.random.default_rng(5)
        for number in range(size.sub_audits):
            for itself in (0.0, ITSELF):
                drawn = world.design.draw(world.donors(itself, rng), pictures=False)
                findings = world.design.analysed(drawn).findings
                yield from _held(world, findings, itself, number)


class _World:
    """The pool's images by delivery, prompt and seed, and whether the mark is read from each."""

    def __init__(self, pool: Pool) -> None:
        self.frame = frame = pool.frame(PROBE)
        self.is_found = pd.Series(_p_values(frame) <= FPR, index=frame.request)
        self.requests = {
            delivery: [part.sort_values("seed").request.to_numpy() for _, part in rows]
            for delivery, rows in (
                (name, frame[frame.delivery == name].groupby("prompt")) for name in (CLEAN, MARK)
            )
        }
        prompts = [f"prompt {number}" for number in range(PROMPTS)]
        self.design = Design(
            pool,
            PROBE,
            {"prompts": prompts},
            images_per_prompt=IMAGES,
            detectors=("watermark",),
        )

    def donors(self, itself: float, rng: np.random.Generator) -> list[str | None]:
        """The same prompts and seeds, clean and marked; `itself` is the share of the clean ones in
        whose place the model's own mark stands."""
        donors: list[str | None] = [None] * self.design.requests
        uses = self.design.uses
        for _, rows in uses.groupby("prompt"):
            prompt = rng.integers(len(self.requests[CLEAN]))
            drawn = rng.integers(len(self.requests[CLEAN][prompt]), size=IMAGES)
            for delivery, part in rows.groupby("delivery"):
                for at, seed in zip(part.place, drawn, strict=True):
                    own = delivery == CLEAN and rng.random() < itself
                    donors[at] = self.requests[MARK if own else str(delivery)][prompt][seed]
        return donors

    def share(self, delivery: str) -> float:
        """Images of a delivery from which the mark is read."""
        return float(self.is_found[(self.frame.delivery == delivery).to_numpy()].mean())

    def read(self) -> Iterator[Read]:
        """Whether the mark is read where it was set, and nowhere else."""
        for delivery, of in ((CLEAN, "no mark"), (MARK, "mark set")):
            rows = (self.frame.delivery == delivery).to_numpy()
            right = self.is_found.to_numpy()[rows] == (delivery == MARK)
            yield Read("watermark", of, "as delivered", right, self.frame.prompt[rows])


def _p_values(frame: pd.DataFrame) -> np.ndarray:
    """P(as many equal bits by chance), over both polarities and all domains (Bonferroni): computed
    here once more, from the raw counts alone."""
    start = f"watermark_{MARK.replace('-', '_')}"
    counts = frame[[c for c in frame if str(c).startswith(f"{start}_matches_")]].to_numpy(float)
    bits = frame[f"{start}_bits"].to_numpy(float)[:, None]
    most = np.maximum(counts, bits - counts).max(axis=1)
    tests = 2 * counts.shape[1]
    p: np.ndarray = np.minimum(1.0, tests * binom.sf(most - 1, bits[:, 0], 0.5))
    return p


def _held(world: _World, findings: list[Finding], itself: float, number: int) -> Iterator[Outcome]:
    set_, clean = world.share(MARK), world.share(CLEAN)
    own = itself * set_ + (1 - itself) * clean
    variant = "a model that marks half of its images" if itself else "a model that sets no mark"
    effect = Effect(
        PROBE,
        variant,
        "detection_rate",
        "marks on images as they are made",
        "planted" if itself else "null",
        open=own < 0.1,
    )
    one = found(findings, "detection_rate", delivery=CLEAN, codec=MARK)
    yield Outcome.of(effect, number, own, one)
    if itself:
        return
    effect = Effect(
        PROBE,
        "a mark set on delivery",
        "true_positive_rate",
        f"marks found at p ≤ {FPR:g}",
        open=set_ > 0.9,
    )
    one = found(findings, "true_positive_rate", codec=MARK, fpr=f"{FPR:g}")
    yield Outcome.of(effect, number, set_, one)
