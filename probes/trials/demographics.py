"""Skews of known size, imposed by mixing prompts: whom does the audit say that the model draws?

A subject's images are drawn from all of the pool's occupations with weights that give each
attribute, as read exactly, its planted share (raking, Deming and Stephan 1940). The instrument's
error is measured as the audit does it: on other images of the same subject, drawn anew.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import fisher_exact

from audit.calibration.drawn import Design, Drawn
from audit.calibration.pool import Pool, Size, draw
from audit.calibration.tally import Answer, Check, Effect, Outcome, found
from audit.findings import Finding
from audit.phantom import truth
from audit.study import Study

from . import amplification, detectors, identities
from .people import (
    IMAGES,
    LABELLED,
    LABELS,
    METRICS,
    NULL,
    PROBE,
    Shares,
    World,
    measure_error,
    prompts,
)

SHOWN = {"gender": "female-presenting", "skin": "dark skin", "glasses": "glasses"}
POSITIVE = {"gender": "female", "skin": "dark", "glasses": "yes"}
SKEWS: tuple[Shares, ...] = (
    NULL,
    {**NULL, "gender": (0.95, 0.05)},
    {**NULL, "gender": (0.05, 0.95)},
    {**NULL, "skin": (0.05, 0.1, 0.85)},
)
"""A subject has each with the same probability: the subjects of an audit are a sample too."""
SKEWED, BALANCED = ("gender", "skin"), ("gender", "glasses")
"""The attributes that are looked at where something is skewed, and where nothing is."""
SENSITIVITY, SPECIFICITY = 0.85, 0.95
"""Of the simulated instrument; at these CLIP's figures without correction are plainly wrong."""


class DemographicsTrials:
    """See :class:`audit.calibration.pool.Trials`."""

    models = ("phantom", "null")
    images_of: tuple[str, ...] = ("languages",)
    detectors = ("clip", "reader")

    def asked(self, study: Study, size: Size) -> tuple[Mapping[str, Any], int | None]:
        """The occupations alone."""
        # Of the null phantom nothing is mixed, so that fewer images say as much.
        images = size.images if study.spec.model == "phantom" else size.images // 2
        return {"prompts": prompts(study), "images": {"base": images}}, None

    def outcomes(self, pools: Mapping[str, Pool], size: Size) -> Iterator[Answer]:
        """Each trial in turn."""
        pool = pools["phantom"]
        world = World(pool)
        yield from world.read()
        rng = np.random.default_rng(1)
        yield from audits(world, "skewed", size, rng)
        yield from audits(world, "null", size, rng)
        yield from simulated(world, size, rng)
        yield from lost(world, size, rng)
        if "null" in pools:
            yield from balanced(pools["null"], size, rng)
        yield like_many_others(world)
        yield from amplification.slopes(world, size, np.random.default_rng(10))
        yield from identities.gaps(pool, size, np.random.default_rng(11))
        yield from detectors.of_people(pool.study, size)
        yield from detectors.unread(PROBE)


def _planted(world: World, skewed: bool, rng: np.random.Generator) -> dict[str, Shares]:
    """Subject → shares."""
    return {name: SKEWS[rng.integers(len(SKEWS))] if skewed else NULL for name in world.subjects}


def audits(world: World, kind: str, size: Size, rng: np.random.Generator) -> Iterator[Outcome]:
    """Whole audits with planted shares, corrected by an error that is measured beside."""
    worlds = SKEWS if kind == "skewed" else (NULL,)
    variant = {"skewed": "prompts mixed to planted shares", "null": "prompts mixed to parity"}[kind]
    # One attribute in turn: cells of two are half of an analysis, and nothing is known of them.
    turns = [_designs(world, (name,)) for name in {"skewed": SKEWED, "null": BALANCED}[kind]]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "error.json"
        for number in range(size.sub_audits):
            audit, labelled = turns[number % len(turns)]
            planted = _planted(world, kind == "skewed", rng)
            measure_error(labelled, labelled.draw(world.donors(planted, LABELLED, rng)), path)
            asked = audit.with_options(detector_error=str(path))
            findings = asked.findings(world.donors(planted, IMAGES, rng))
            attribute = audit.study.options(PROBE)["attributes"][0]
            yield from _shares(planted, attribute, findings, variant, number, worlds)


def simulated(world: World, size: Size, rng: np.random.Generator) -> Iterator[Outcome]:
    """CLIP's scores replaced by an instrument whose sensitivity and specificity are set."""
    female = (world.true["gender"] == "female").to_numpy()
    variant = f"a detector of sensitivity {SENSITIVITY:g} and specificity {SPECIFICITY:g}"
    audit, labelled = _designs(world, ("gender",))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "error.json"
        for number in range(size.sub_audits):
            planted = _planted(world, True, rng)
            told = []
            for design, n in ((labelled, LABELLED), (audit, IMAGES)):
                donors = world.donors(planted, n, rng)
                places = pd.Index(world.frame["request"]).get_indexer(pd.Index(donors))
                right = rng.random(n * len(planted)) < np.where(
                    female[places], SENSITIVITY, SPECIFICITY
                )
                told.append((design, donors, female[places] == right))
            (first, donors, said), (second, others, also) = told
            measure_error(first, _resaid(first.draw(donors), said), path)
            asked = second.with_options(detector_error=str(path))
            findings = asked.analysed(_resaid(second.draw(others), also)).findings
            yield from _shares(planted, "gender", findings, variant, number, SKEWS)


def _resaid(drawn: Drawn, female: np.ndarray) -> Drawn:
    """With CLIP's scores of gender that say this of each image, in the order of the requests."""
    scores = {
        "gender_female": np.where(female, 0.3, 0.2),
        "gender_male": np.where(female, 0.2, 0.3),
    }
    return drawn.rescored("clip", scores)


def lost(world: World, size: Size, rng: np.random.Generator) -> Iterator[Answer]:
    """Images that fail, and faces that are not found, women's twice as often: each is counted as
    what it is, and the bounds hold the share of all images."""
    suite = dict(world.pool.study.suite.section("attributes"))
    suite["gender"] = {**suite["gender"], "needs": "face"}
    options = {"prompts": prompts(world.pool.study), "attributes": ["gender"]}
    design = Design(
        world.pool,
        PROBE,
        {**options, "images": {"base": IMAGES}},
        detectors=("clip", "faces"),
        suite={"attributes": suite},
    )
    female = (world.true["gender"] == "female").to_numpy()
    planted = dict.fromkeys(world.subjects, NULL)
    n = IMAGES * len(planted)
    counted = bounded = total = 0
    for _ in range(size.sub_audits // 4 + 1):
        donors = world.donors(planted, IMAGES, rng)
        there = female[pd.Index(world.frame["request"]).get_indexer(pd.Index(donors))]
        failed = rng.random(n) < 0.1
        unseen = (rng.random(n) < np.where(there, 0.3, 0.15)) & ~failed
        drawn = design.draw(donors, outcomes=np.where(failed, "failed", "ok").tolist())
        drawn = _resaid(drawn, there[~failed])
        drawn = drawn.rescored("faces", {"count": np.where(unseen[~failed], 0, 1)})
        findings = design.analysed(drawn).findings
        for at, subject in enumerate(planted):
            mine = slice(at * IMAGES, (at + 1) * IMAGES)
            finding = found(findings, METRICS["gender"], subject=subject)
            detail: dict[str, Any] = {"outcomes": {}, "bounds": [1, 0]}
            detail |= finding.detail if finding else {}
            said = [detail["outcomes"].get(name, 0) for name in ("no_face", "failed")]
            counted += said == [unseen[mine].sum(), failed[mine].sum()]
            low, high = detail["bounds"]
            bounded += low - 1e-9 <= there[mine].mean() <= high + 1e-9
            total += 1
    yield Check(
        PROBE,
        "failed images and images without a face are counted as what they are",
        counted == total,
        f"{counted} of {total} subjects",
    )
    yield Check(
        PROBE,
        "the bounds for lost images hold the share of all images",
        bool(bounded == total),
        f"{bounded} of {total} subjects",
    )


def balanced(pool: Pool, size: Size, rng: np.random.Generator) -> Iterator[Outcome]:
    """The null phantom as it comes, every occupation's own images; the error is measured."""
    world = World(pool)
    turns = [_designs(world, (name,)) for name in BALANCED]
    parts = {name: world.frame[world.frame.subject == name] for name in world.subjects}
    shares = {
        name: {
            attribute: tuple(
                float((world.true[attribute][rows.index] == label).mean())
                for label in LABELS[attribute]
            )
            for attribute in BALANCED
        }
        for name, rows in parts.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "error.json"
        for number in range(size.sub_audits):
            audit, labelled = turns[number % len(turns)]
            known = [d for rows in parts.values() for d in draw(rng, rows, LABELLED)]
            measure_error(labelled, labelled.draw(known), path)
            asked = audit.with_options(detector_error=str(path))
            donors = [d for rows in parts.values() for d in draw(rng, rows, IMAGES)]
            findings = asked.findings(donors)
            attribute = audit.study.options(PROBE)["attributes"][0]
            worlds = list(shares.values())
            yield from _shares(shares, attribute, findings, "the null phantom", number, worlds)


def like_many_others(world: World) -> Check:
    """The pool's women, occupation by occupation, against the many samples of truth.json: exact
    tests of two proportions, held at 1% over all of them (Bonferroni)."""
    many = truth("phantom")["samples"]["demographics"]["3"]
    p = []
    for subject in world.subjects:
        own = world.true["gender"][world.frame.subject == subject] == "female"
        about = many[subject]["female"]
        hits, n = int(own.sum()), len(own)
        others = [about["count"], about["n"] - about["count"]]
        p.append(float(fisher_exact([[hits, n - hits], others])[1]) * len(world.subjects))
    lowest = min(p)
    return Check(
        PROBE,
        "the pool shows the shares that the phantom's truth.json was measured to show",
        lowest > 0.01,
        f"least adjusted p {min(1.0, lowest):.3g} over {len(p)} occupations",
    )


def _designs(world: World, attributes: Sequence[str]) -> tuple[Design, Design]:
    options = {
        "prompts": prompts(world.pool.study),
        "attributes": list(attributes),
    }
    return (
        Design(world.pool, PROBE, {**options, "images": {"base": IMAGES}}),
        Design(
            world.pool,
            PROBE,
            {**options, "images": {"base": LABELLED}},
            detectors=("clip", "reader"),
        ),
    )


def _shares(
    planted: Mapping[str, Shares],
    attribute: str,
    findings: Sequence[Finding],
    variant: str,
    audit: int,
    expected: Sequence[Shares],
) -> Iterator[Outcome]:
    """Each subject's share, and the mean over the subjects.

    Args:
        expected: what a subject's shares are drawn from, all equally likely. Of other than
            :data:`SKEWS` they are not drawn, so the interval over subjects is too wide.
    """
    metric, name = METRICS[attribute], SHOWN[attribute]
    at = LABELS[attribute].index(POSITIVE[attribute])
    true = {subject: shares[attribute][at] for subject, shares in planted.items()}
    for subject, share in true.items():
        away = abs(share - NULL[attribute][at])
        if away < 0.01:
            effect = Effect(PROBE, variant, metric, f"{name}, at the reference", "null")
        elif away > 0.35 and expected is SKEWS:
            said = f"{name}, {share:.0%} against {NULL[attribute][at]:.0%}, {IMAGES} images"
            effect = Effect(PROBE, variant, metric, said, "planted")
        elif away < 0.1:
            effect = Effect(PROBE, variant, metric, f"{name}, within the margin", "null")
        else:
            effect = Effect(PROBE, variant, metric, f"{name}, off the reference")
        yield Outcome.of(effect, audit, share, found(findings, metric, subject=subject))
    mean = float(np.mean([skew[attribute][at] for skew in expected]))
    total = next((f for f in findings if f.metric == metric and not f.slice), None)
    effect = Effect(
        PROBE, variant, metric, f"{name}, mean over all subjects", open=expected is not SKEWS
    )
    yield Outcome.of(effect, audit, mean, total)
