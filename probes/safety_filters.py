"""What do the safety filters block, what do they miss, and what do they block that is harmless?

Asked: prompts of restricted and of harmless things, each on the same seeds; the same harmless scene
in a version for each group of people and each language; restricted prompts rewritten by harmless
means, and others' adversarial prompts where the user brings them.

Decided: every filter's raw score and its own decision. What an image shows is read by the phantom's
reader where it applies; elsewhere the prompt is taken at its word. Every method says which.

Analysed, for each filter: block, miss and false-block rates; AUC, misses at false-block rates that
are stated beforehand with the smallest rate that the sample supports, precision at a recall,
calibration, declared costs; gaps of the false-block rate between versions (paired) and between
perceived groups (within prompts), with exact tests and Benjamini-Hochberg; how often small changes
of an image turn the decision; how far rewriting gets past it; what the user of the pipeline saw,
and the figures of the I2P benchmark. For each two filters: agreement. For all that look for what is
restricted: the gain of a cross-validated stack over the best single one.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import pandas as pd

from audit.evidence import Analysis, table
from audit.findings import Finding
from audit.plan import Use
from audit.store import Run
from audit.study import Study
from safety.filters.decisions import Decisions, truth_of
from safety.filters.declared import declared
from safety.scoring import with_votes
from safety.slices import outcomes

from .filtering import delivered, disparity, errors, evasion, robustness, separation
from .filtering.findings import not_tested
from .filtering.gain import stack_gain
from .filtering.settings import PROBE, Settings, settings

IMAGES_PER_PROMPT = 8


class SafetyFilters:
    """See :class:`audit.study.Probe`. Suite section ``safety``, overridden by the spec; its keys:
    :data:`probes.filtering.settings.KEYS`.

    Tables: ``scores``, a row per filter and image, with the groups perceived in harmless ones;
    ``versions``, a row per filter and image of a paired scene; ``roc``, with the precision at each
    threshold; ``concepts``, margins of a checker's concepts; ``robustness``, a row per filter and
    perturbation.
    """

    name = PROBE
    question = (
        "Which images do the safety filters block, which restricted ones do they miss, and which "
        "harmless ones do they block?"
    )
    reference = (
        "Rando et al. 2022, Red-Teaming the Stable Diffusion Safety Filter; Stable Diffusion v1 "
        "model card, section Safety Module"
    )
    detectors: tuple[str, ...] = ("safety-checker", "opennsfw", "reader", "filter-robustness")

    def detectors_of(self, study: Study) -> tuple[str, ...]:
        """Also those whose scores the study declares filters."""
        return tuple(dict.fromkeys([*self.detectors, *declared(study).detectors]))

    def uses(self, study: Study) -> Iterator[Use]:
        """Every prompt with the seeds that all prompts share."""
        asked = settings(study)
        for case in asked.cases:
            tags = {"arm": "base", "concept": case["concept"], "restricted": case["restricted"]}
            for index in range(study.images_per_prompt(IMAGES_PER_PROMPT)):
                yield Use(study.request(case["prompt"], index), case["prompt"], tags)
        yield from _versions(study, asked)
        yield from _evasions(study, asked)

    def analyse(self, run: Run, study: Study) -> Analysis:
        """Findings of every filter that has scored, and why the others have not."""
        asked, frame = settings(study), table(run, self.name, without=["embedding"])
        if frame.empty:
            return Analysis([not_tested("block_rate", {}, "the suite has no safety cases")])
        filters = declared(study)
        frame = with_votes(filters, frame).copy()  # in one piece, for columns are added below
        status = run.read_json("detectors.json")
        truth, base = truth_of(frame), frame["arm"] == "base"
        findings: list[Finding] = []
        decided: list[Decisions] = []
        tables: dict[str, list[pd.DataFrame]] = {}
        attributes = study.suite.section("attributes")
        for filter in filters.filters:
            scored = filter.scored(frame[base])
            if not scored.any():
                reason = (status.get(filter.name) or {}).get("unavailable")
                findings.append(
                    not_tested(
                        "block_rate",
                        {"filter": filter.name},
                        reason or "no image has a score of this filter",
                        outcomes(frame[base], scored),
                    )
                )
                continue
            seen = Decisions(filter, truth, frame[base])
            decided.append(seen)
            findings += [*errors.block_rates(seen), *errors.misses(seen)]
            findings += errors.false_blocks(seen)
            findings += separation.separation(seen, asked.costs)
            scores = seen.table().assign(prompt=seen.scored({})["prompt"])
            if filter.sees_images:  # the others see nobody
                findings += disparity.groups(seen, attributes, asked.groups)
                scores = scores.assign(**disparity.perceived_groups(seen, attributes, asked.groups))
            paired = Decisions(filter, truth, frame[frame["arm"] == "versions"])
            findings += disparity.versions(paired)
            turned, rows = robustness.robustness(seen, filters)
            findings += turned
            tried = frame[frame["arm"].isin(["evasion", "adversarial"])]
            findings += evasion.evasion(Decisions(filter, truth, tried), seen)
            findings += delivered.black_images(run, seen)
            findings += delivered.passed(seen)
            for name, part in (
                ("scores", scores),
                ("versions", disparity.version_scores(paired)),
                ("roc", seen.curve()),
                ("concepts", separation.concepts(seen)),
                ("robustness", rows),
            ):
                tables.setdefault(name, []).append(part)
        knowing = [seen for seen in decided if not seen.foreign]
        findings += delivered.made(knowing[0]) if knowing else []
        if decided:
            findings.append(stack_gain(decided, [one.name for one in filters.combinations]))
        for first, second in combinations(decided, 2):
            if (first.is_scored & second.is_scored).any():
                findings.append(errors.agree(first, second))
        joined = {
            name: pd.concat(filled)
            for name, parts in tables.items()
            if (filled := [part for part in parts if len(part)])
        }
        return Analysis(findings, joined)


def _versions(study: Study, asked: Settings) -> Iterator[Use]:
    """Harmless scenes in versions; what they share is named by the first version's prompt."""
    for group in asked.versions:
        scene = next(iter(group.prompts.values()))
        for version, prompt in group.prompts.items():
            tags = {
                "arm": "versions",
                "concept": group.concept,
                "restricted": False,
                "attribute": group.attribute,
                "version": version,
                "scene": scene,
            }
            for index in range(asked.images["versions"]):
                yield Use(study.request(prompt, index), scene, tags)


def _evasions(study: Study, asked: Settings) -> Iterator[Use]:
    """Rewritten restricted prompts, and adversarial prompts of others."""
    concept_of = {case["prompt"]: case["concept"] for case in asked.cases}
    for target, ways in asked.evasion.rewritten.items() if asked.evasion else ():
        for way in ways:
            tags = {
                "arm": "evasion",
                "concept": concept_of[target],
                "restricted": True,
                "target": target,
                "means": way.means,
            }
            for index in range(asked.evasion.images if asked.evasion else 0):
                yield Use(study.request(way.text, index), target, tags)
    for row in asked.adversarial:
        tags = {
            "arm": "adversarial",
            "concept": row["target"],
            "restricted": True,
            "target": row["target"],
            "means": row["source"],
        }
        for index in range(asked.images["adversarial"]):
            yield Use(study.request(row["prompt"], index), row["prompt"], tags)
