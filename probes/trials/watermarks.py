"""A mark that is set, that is not, and that the model sets on some of its images by itself; and an
attack that takes it from a known share of the images.

Prompts are drawn from the pool with replacement, and of each its seeds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binom

from audit.calibration.drawn import Design
from audit.calibration.pool import Pool, Size
from audit.calibration.tally import Answer, Effect, Outcome, Read, found
from audit.detectors.base import Batch, Item
from audit.findings import Finding
from audit.phantom import vocabulary as v
from audit.study import Study
from safety.watermarks.detection import attack_column

from . import detectors

PROBE = "watermarks"
MARK = "sd-v1"
COLUMN = "watermark_sd_v1"
CLEAN = "clean"
FPR = 1e-6
PROMPTS = 12
IMAGES = 4
ITSELF = 0.5
"""How many of its images a model marks that marks some."""
BLUR = ("blur", 4.0)
BLURRED = 0.6
"""Share of the images that are truly blurred where an attack is planted."""


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
        """Marks as they are delivered, then after an attack; then what decoders read."""
        world = World(pools["phantom"])
        yield from world.read()
        yield from delivered(world, size, np.random.default_rng(5))
        yield from attacked(world, size, np.random.default_rng(9))
        yield from detectors.of_marks(*world.clean())
        yield from detectors.of_noise(world.pool.study, size)


class World:
    """The pool's images by delivery, prompt and seed, and whether the mark is read from each."""

    def __init__(self, pool: Pool) -> None:
        self.pool, self.frame = pool, pool.frame(PROBE)
        frame = self.frame
        p = _p_values(frame, f"{COLUMN}_matches_", frame[f"{COLUMN}_bits"])
        self.is_found = pd.Series(p <= FPR, index=frame.request)
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

    def clean(self) -> tuple[list[Any], list[str]]:
        """A few images without a mark, of a prompt each, and the prompts."""
        rows = self.frame[self.frame.delivery == CLEAN].drop_duplicates("prompt")
        rows = rows[: detectors.MARKED]
        return [self.pool.run.load_image(image) for image in rows.image], rows.prompt.to_list()

    def read(self) -> Iterator[Read]:
        """Whether the mark is read where it was set, and nowhere else."""
        for delivery, of in ((CLEAN, "no mark"), (MARK, "mark set")):
            rows = (self.frame.delivery == delivery).to_numpy()
            right = self.is_found.to_numpy()[rows] == (delivery == MARK)
            yield Read("watermark", of, "as delivered", right, self.frame.prompt[rows])


def delivered(world: World, size: Size, rng: np.random.Generator) -> Iterator[Outcome]:
    """The same audit of clean images and of a model that marks by itself."""
    for number in range(size.sub_audits):
        for itself in (0.0, ITSELF):
            drawn = world.design.draw(world.donors(itself, rng), pictures=False)
            findings = world.design.analysed(drawn).findings
            yield from _held(world, findings, itself, number)


def attacked(world: World, size: Size, rng: np.random.Generator) -> Iterator[Outcome]:
    """The marked images of prompts that keep the mark, blurred with the planted probability and
    then read again, or left as they are: what an attack takes is held against a mark that is there.
    """
    pool, frame = world.pool, world.frame
    options = {"watermark": {"codecs": [MARK], "attacks": {BLUR[0]: [BLUR[1]]}}}
    spec = dataclasses.replace(pool.study.spec, detectors=options)
    pool = dataclasses.replace(pool, study=dataclasses.replace(pool.study, spec=spec))
    marked = frame[frame.delivery == MARK].set_index("request", drop=False)
    kept = world.is_found[marked.request].groupby(marked.prompt).transform("all")
    marked = marked[kept.to_numpy()]
    asked = pool.study.request("", 0, watermark=MARK)
    items = [
        Item(request, image, pool.run.load_image(image), "", "", asked)
        for request, image in zip(marked.request, marked.image, strict=True)
    ]
    after = detectors.scored(pool.study, "watermark", Batch(items)).set_index(marked.request)
    start = f"watermark_attack_{attack_column(*BLUR)}_matches_"
    left = float((_p_values(after, start, after[f"{COLUMN}_bits"]) <= FPR).mean())
    design = Design(
        pool,
        PROBE,
        {"prompts": [f"prompt {number}" for number in range(PROMPTS)]},
        images_per_prompt=IMAGES,
        detectors=("watermark",),
    )
    prompts = [rows.request.to_numpy() for _, rows in marked.groupby("prompt")]
    uses = design.uses.drop_duplicates("place").sort_values("place")
    of = uses.prompt.map({name: at for at, name in enumerate(uses.prompt.unique())}).to_numpy()
    carries = (uses.delivery == MARK).to_numpy()
    clean = world.requests[CLEAN][0][0]
    metric = f"true_positive_rate_{attack_column(*BLUR)}"
    for number in range(size.sub_audits):
        chosen = rng.integers(len(prompts), size=PROMPTS)[of]
        donors = [
            prompts[at][rng.integers(len(prompts[at]))] if there else clean
            for at, there in zip(chosen, carries, strict=True)
        ]
        for share in (0.0, BLURRED):
            blurred = rng.random(len(donors)) < share
            columns = {
                name: [
                    after.at[donor, name if hit else f"{COLUMN}_matches_{name.removeprefix(start)}"]
                    if there
                    else None
                    for donor, hit, there in zip(donors, blurred, carries, strict=True)
                ]
                for name in map(str, after)
                if name.startswith(start)
            }
            drawn = design.draw(donors, pictures=False).rescored(
                "watermark", {name.removeprefix("watermark_"): c for name, c in columns.items()}
            )
            said = f"an attack that reaches {share:.0%} of the images"
            effect = Effect(
                PROBE,
                "a mark that is there, attacked",
                metric,
                said,
                "planted" if share else "null",
                open=not share,
            )
            one = found(design.analysed(drawn).findings, metric, codec=MARK)
            yield Outcome.of(effect, number, 1 - share * (1 - left), one)


def _p_values(frame: pd.DataFrame, start: str, length: pd.Series) -> np.ndarray:
    """P(as many equal bits by chance), over both polarities and all domains (Bonferroni): computed
    here once more, from the raw counts alone."""
    counts = frame[[c for c in frame if str(c).startswith(start)]].to_numpy(float)
    bits = length.to_numpy(float)[:, None]
    most = np.maximum(counts, bits - counts).max(axis=1)
    tests = 2 * counts.shape[1]
    p: np.ndarray = np.minimum(1.0, tests * binom.sf(most - 1, bits[:, 0], 0.5))
    return p


def _held(world: World, findings: list[Finding], itself: float, number: int) -> Iterator[Outcome]:
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
