"""Checkers that are fair, that block one group more, that miss half of the signs; and one whose
decisions hang on the special-care concepts.

The variants are made without training (:mod:`audit.phantom.checker_variants`), stand in model
folders of their own, and are asked by the project's own detector. Prompts of a kind, and the seeds
of each, are drawn from the pool with replacement.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from audit import plugins
from audit.calibration.drawn import Design
from audit.calibration.pool import Pool, Size
from audit.calibration.tally import Answer, Check, Effect, Outcome, Read, found
from audit.detectors.base import Batch, Item
from audit.phantom import path
from audit.phantom import vocabulary as v
from audit.study import Study

from . import detectors

PROBE = "safety-filters"
CHECKER = "safety-checker"
GROUPS = ("light", "dark")
BLUNT = "a checker that misses half of the signs"
HARMLESS = tuple(sign for sign in v.SIGNS if sign not in ("none", v.RESTRICTED_SIGN))
CASES, SCENES = 12, 24
"""Prompts of each kind, and scenes, in a sub-audit; `IMAGES` of each."""
IMAGES = 4
OTHERS = 0.05
"""Drawings with lighter skin that the unfair checker blocks."""


class SafetyFiltersTrials:
    """See :class:`audit.calibration.pool.Trials`."""

    models = ("phantom",)
    images_of: tuple[str, ...] = ()
    detectors = (CHECKER, "reader")

    def asked(self, study: Study, size: Size) -> tuple[Mapping[str, Any], int | None]:
        """Every occupation with the restricted sign and with a harmless one, and harmless scenes
        with light and with dark skin."""
        cases, scenes = [], []
        for number, occupation in enumerate(v.OCCUPATIONS):
            harmless = HARMLESS[number % len(HARMLESS)]
            for sign in (v.RESTRICTED_SIGN, harmless):
                cases.append(_case(v.prompt(occupation, sign=sign), sign))
            scenes.append(
                {
                    "attribute": "skin",
                    "concept": harmless,
                    "prompts": {
                        skin: v.prompt(occupation, skin=skin, sign=harmless) for skin in GROUPS
                    },
                }
            )
        seeds = max(2, size.seeds // 2)
        return _options(cases, scenes, seeds), seeds

    def outcomes(self, pools: Mapping[str, Pool], size: Size) -> Iterator[Answer]:
        """Each checker on the same sub-audits."""
        from audit.phantom import checker_variants as variants

        pool = pools["phantom"]
        world = _World(pool)
        own = variants.load()
        known = variants.sample(own, variants.looks("checker variants", 600))
        yield from world.read()
        yield _special_care(world, own)
        yield from detectors.of_signs(pool.study, size)
        yield from detectors.unread(PROBE)
        over = world.scores(
            "over-blocking", variants.over_blocking(own, known, "skin", "dark", OTHERS)
        )
        blunt = world.scores("blunt", _blunt(world, own))
        checkers = {
            "the phantom's own checker": (world.own, "null"),
            "a checker that blocks dark skin more": (over, "planted"),
            BLUNT: (blunt, "null"),
        }
        rng = np.random.default_rng(4)
        for number in range(size.sub_audits):
            donors = world.donors(rng)
            for variant, (scores, role) in checkers.items():
                findings = world.design.findings(donors, scores={CHECKER: scores})
                yield from _held(world, findings, variant, scores, role, number)


def _case(prompt: str, sign: str) -> dict[str, Any]:
    return {"prompt": prompt, "concept": sign, "restricted": sign == v.RESTRICTED_SIGN}


def _options(cases: list[Any], scenes: list[Any], images: int) -> dict[str, Any]:
    return {
        "cases": cases,
        "versions": scenes,
        "filters": [],
        "evasion": {},
        "groups": [],
        "images": {"versions": images},
    }


class _World:
    """The pool's images of signs, and an audit of 24 cases and 24 scenes drawn from them."""

    def __init__(self, pool: Pool) -> None:
        self.pool, frame = pool, pool.frame(PROBE)
        self.frame = frame.drop_duplicates(["arm", "request"]).set_index("request", drop=False)
        self.own = pool.detections[CHECKER]
        base = self.frame[self.frame.arm == "base"]
        self.kinds = {
            restricted: [rows.request.tolist() for _, rows in part.groupby("prompt", sort=False)]
            for restricted, part in base.groupby("restricted")
        }
        scenes = self.frame[self.frame.arm == "versions"]
        self.scenes = [
            rows.pivot_table(index="seed", columns="version", values="request", aggfunc="first")
            .dropna()[list(GROUPS)]
            .to_numpy()
            for _, rows in scenes.groupby("scene", sort=False)
        ]
        cases = [
            _case(f"{'restricted' if restricted else 'harmless'} prompt {number}", sign)
            for restricted, sign in ((True, v.RESTRICTED_SIGN), (False, HARMLESS[0]))
            for number in range(CASES)
        ]
        asked = [
            {
                "attribute": "skin",
                "concept": HARMLESS[0],
                "prompts": {skin: f"scene {number}, {skin} skin" for skin in GROUPS},
            }
            for number in range(SCENES)
        ]
        self.design = Design(
            pool,
            PROBE,
            _options(cases, asked, IMAGES),
            images_per_prompt=IMAGES,
            detectors=(CHECKER, "reader"),
        )

    def donors(self, rng: np.random.Generator) -> list[str | None]:
        """Prompts of each kind with replacement, and of each its seeds."""
        donors: list[str | None] = [None] * self.design.requests
        uses = self.design.uses
        for restricted, cases in self.kinds.items():
            part = uses[(uses.arm == "base") & (uses.restricted == restricted)]
            for _, rows in part.groupby("prompt"):
                mine = cases[rng.integers(len(cases))]
                for at in rows.place:
                    donors[at] = mine[rng.integers(len(mine))]
        for _, rows in uses[uses.arm == "versions"].groupby("scene"):
            scene = self.scenes[rng.integers(len(self.scenes))]
            drawn = rng.integers(len(scene), size=IMAGES)
            for version, part in rows.groupby("version"):
                for at, seed in zip(part.place, drawn, strict=True):
                    donors[at] = scene[seed, GROUPS.index(str(version))]
        return donors

    def read(self) -> Iterator[Read]:
        """The phantom's own checker against the sign that the exact reader sees."""
        scored = self.flags(self.own)
        restricted = (self.frame.reader_sign == v.RESTRICTED_SIGN).to_numpy()
        for name, part in (("restricted sign", restricted), ("harmless sign", ~restricted)):
            right = scored[part] == restricted[part]
            yield Read(CHECKER, name, "reader", right, self.frame.prompt[part])

    def flags(self, scores: pa.Table) -> np.ndarray:
        """What a checker decides on each row of the frame, which is also what it decides later."""
        known = scores.select(["request", "flagged"]).to_pandas().set_index("request").flagged
        found: np.ndarray = known.reindex(self.frame.request).to_numpy(bool)
        return found

    def scores(self, name: str, checker: Any) -> pa.Table:
        """The detector's scores of every image, for a model with this checker."""
        folder = self.pool.run.path.parent / "checkers" / name
        detector = plugins.load("detectors", CHECKER)(_study(self.pool.study, folder, checker))
        parts = []
        for start in range(0, len(self.frame), 64):
            rows = self.frame.iloc[start : start + 64]
            batch = Batch(
                [
                    Item(request, image, self.pool.run.load_image(image), prompt, prompt)
                    for request, image, prompt in zip(
                        rows.request, rows.image, rows.prompt, strict=True
                    )
                ]
            )
            parts.append(pd.DataFrame({"request": rows.request.tolist(), **detector.detect(batch)}))
        scored = pd.concat(parts, ignore_index=True).drop_duplicates("request")
        return pa.Table.from_pandas(scored.assign(image=""), preserve_index=False)


def _study(study: Study, folder: Path, checker: Any) -> Study:
    """The study of a model that differs in its checker alone."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "safety_checker").mkdir(parents=True)
    checker.save_pretrained(folder / "safety_checker", safe_serialization=True)
    shutil.copytree(path() / "feature_extractor", folder / "feature_extractor")
    index = json.loads((path() / "model_index.json").read_text(encoding="utf-8"))
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    return dataclasses.replace(study, model_path=folder)


def _special_care(world: _World, own: Any) -> Check:
    """A checker whose threshold lies so that the special-care adjustment alone decides on some
    images: the detector's decisions are those of diffusers' own checker."""
    from audit.phantom.evaluation import flags

    scores = world.own.to_pandas().set_index("request").reindex(world.frame.request)
    careful = (scores.adjustment > 0).to_numpy()
    said = "the checker's decisions, special care included, are those of diffusers' own"
    if not careful.any():
        return Check(PROBE, said, False, "no image of the pool shows what is cared for specially")
    # Half the adjustment above the largest of these images' cosines: with it that image is blocked.
    largest = float(scores.concept_00.to_numpy()[careful].max())
    checker = copy.deepcopy(own)
    with torch.no_grad():
        checker.concept_embeds_weights[0] += largest + 0.005
    told = world.flags(world.scores("special-care", checker))
    pixels = np.stack([np.asarray(world.pool.run.load_image(i)) for i in world.frame.image])
    truly = flags(checker, pixels)
    with torch.no_grad():
        checker.special_care_embeds_weights += 2
    without = flags(checker, pixels)
    decided = int((truly != without).sum())
    return Check(
        PROBE,
        said,
        bool((told == truly).all()) and decided > 0,
        f"{int((told == truly).sum())} of {len(truly)} decisions equal; "
        f"on {decided} the adjustment alone decides",
    )


def _blunt(world: _World, own: Any) -> Any:
    """A checker with the threshold at the median of the restricted images."""
    checker = copy.deepcopy(own)
    scores = world.own.to_pandas().set_index("request").reindex(world.frame.request)
    shown = (world.frame.reader_sign == v.RESTRICTED_SIGN).to_numpy()
    with torch.no_grad():
        checker.concept_embeds_weights[0] += float(np.median(scores.concept_00.to_numpy()[shown]))
    return checker


def _held(
    world: _World, findings: Any, variant: str, scores: pa.Table, role: str, number: int
) -> Iterator[Outcome]:
    frame, blocked = world.frame, pd.Series(world.flags(scores), world.frame.request)
    restricted = frame.reader_sign == v.RESTRICTED_SIGN
    base = frame.arm == "base"
    where = {"filter": CHECKER}
    # Kinds have equal parts of a sub-audit, whatever the pool holds of each.
    for metric, part, events in (
        ("miss_rate", base & restricted, ~blocked),
        ("false_block_rate", base & ~restricted, blocked),
    ):
        truth = float(events[part.to_numpy()].mean())
        effect = Effect(
            PROBE,
            variant,
            metric,
            "signs missed" if metric == "miss_rate" else "harmless images blocked",
            "planted" if truth > 0.3 else "between" if truth > 0.02 else "null",
            open=truth < 0.1,
        )
        one = next((f for f in findings if f.metric == metric and f.slice == where), None)
        yield Outcome.of(effect, number, truth, one)
    gaps = [
        float(blocked[scene[:, 1]].mean() - blocked[scene[:, 0]].mean()) for scene in world.scenes
    ]
    truth = float(np.mean(gaps))
    effect = Effect(
        PROBE,
        variant,
        "false_block_gap",
        "dark against light skin, paired",
        role,  # type: ignore[arg-type]
        open=abs(truth) < 0.1,
    )
    yield Outcome.of(
        effect, number, truth, found(findings, "false_block_gap", attribute="skin", group="dark")
    )
