"""What does the model lose when it is asked in another language, and where is it lost?

Asked: the same content in every language and arm, with the same seeds, so that every image has a
pair that differs in the words of the prompt alone. The arms are those of
:mod:`audit.prompts.languages`; an English rewording is the control for paraphrase.
Measured, in the order in which a prompt becomes a picture: tokens against English, and prompts that
are cut; how far the model's own text encoder puts the prompt from its English text; the alignment
of the image with the *English* text by English CLIP, whatever was asked (the yardstick may not
change with what is measured), and by a multilingual CLIP with the text that was asked, where one is
given; whether zero-shot CLIP recognises the content; images without a face where a person was asked
for; and how the shares of perceived attributes shift.
Analysed: per language, per script and per arm the mean paired difference to the English prompt, and
to its rewording, with intervals clustered by prompt and by seed; Benjamini-Hochberg over each
family; no verdict below 50 pairs. Tokens and drift explain and are not judged. Pairs that were lost
are counted by reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from audit.errors import AuditError
from audit.evidence import Analysis, table
from audit.findings import Finding
from audit.perception import perceived
from audit.plan import Use
from audit.prompts.asked import prompts_of, section_of
from audit.store import Run
from audit.study import Study

from ._language_gaps import Stage, gaps, not_tested, why_not
from ._language_stages import correlations, decomposition, drift, fertility, ladder, truncation

IMAGES_PER_PROMPT = 8
MARGIN = 0.02
"""Loss of alignment (cosine) that does not count, where the suite says none."""
SHARE_MARGIN = 0.05
"""Difference of a share that does not count: contents recognised, images without a person."""
BLIND = 0.5
"""A face detector that finds none in more of the English images than this does not see them."""


class Languages:
    """See :class:`audit.study.Probe`. Suite section: ``languages``; the spec's options, which
    override it, have the same keys.

    Keys: those of :mod:`audit.prompts.asked` say what is asked. ``margin`` is the loss of alignment
    that does not count; ``attribute`` names the attribute of the suite whose labels are the keys of
    the prompts, and ``attributes`` those whose shares are compared; ``no_person: {attribute,
    label}`` is the zero-shot label of nobody, for where no face detector serves; ``people`` says of
    all written-out prompts whether they ask for ``none``, ``one`` or ``several`` people.

    Tables: ``alignment``, for the card's figure; ``decomposition``, a row per slice with all
    stages.
    """

    name = "languages"
    question = "What does the model lose when it is asked in another language, and where?"
    reference = (
        "Saxon and Wang 2023, CoCo-CroLa; Friedrich et al. 2024, MAGBIG; Petrov et al. 2023 "
        "(tokens); Struppek et al. 2023 (homoglyphs)"
    )
    detectors = ("text-encoder", "clip", "clip-multilingual", "faces")

    def uses(self, study: Study) -> Iterator[Use]:
        """Every prompt with the same seeds; what is said in English is made once."""
        for prompt in prompts_of(_section(study)):
            tags: dict[str, Any] = {"key": prompt.id, "language": prompt.language}
            tags["group"] = prompt.group
            tags |= {name: prompt.tags[name] for name in ("script", "arm", "gender", "people")}
            for index in range(study.images_per_prompt(IMAGES_PER_PROMPT)):
                request = study.request(prompt.text, index)
                yield Use(request, prompt.english_text, {**tags, "index": index})

    def analyse(self, run: Run, study: Study) -> Analysis:
        """Each stage on each slice, in the order of the stages."""
        section, frame = _section(study), table(run, self.name, without=["embedding"])
        if frame.empty:
            return Analysis([not_tested("alignment_gap", "the suite asks for no languages")])
        status = run.read_json("detectors.json")
        findings = [
            *fertility(frame, status),
            *truncation(frame),
            *drift(frame, status),
            *_alignment(frame, float(section.get("margin", MARGIN)), status),
            *_recognition(frame, section, study),
            *_no_person(frame, section, study, status),
            *_shifts(frame, section, study),
        ]
        rows = decomposition(findings)
        tables = {"alignment": ladder(findings), "decomposition": rows}
        return Analysis([*findings, *correlations(rows)], tables)


def _section(study: Study) -> dict[str, Any]:
    suite, options = study.suite.section("languages"), study.options("languages")
    section = section_of(suite, options, study.suite.name)
    declared = study.suite.section("attributes")
    for name in [*section.get("attributes", []), section.get("attribute")]:
        if name is not None and name not in declared:
            raise AuditError(f"languages: the suite {study.suite.name} has no attribute '{name}'")
    return section


def _alignment(frame: pd.DataFrame, margin: float, status: Mapping[str, Any]) -> Iterator[Finding]:
    """The image held against the English text; then beyond what a rewording costs; then a
    multilingual CLIP against the text that was asked."""
    if "clip_alignment" not in frame or frame.clip_alignment.isna().all():
        yield not_tested("alignment_gap", why_not(status, "clip"))
    else:
        stage = Stage("alignment_gap", margin, "below", "Cosine with the English text")
        yield from gaps(stage, frame, frame.clip_alignment)
        if (frame.arm == "rewording").any():
            stage = Stage(
                "alignment_gap_beyond_rewording", margin, "below", "Cosine with the English text"
            )
            yield from gaps(stage, frame, frame.clip_alignment, against="rewording")
    for metric, column, said in (
        ("multilingual_alignment_gap", "alignment", "Cosine with the English text"),
        ("asked_alignment_gap", "asked_alignment", "Cosine with the asked text"),
    ):
        if f"clip_multilingual_{column}" in frame:
            stage = Stage(metric, margin, "below", f"{said} by the multilingual CLIP")
            yield from gaps(stage, frame, frame[f"clip_multilingual_{column}"])


def _recognition(
    frame: pd.DataFrame, section: Mapping[str, Any], study: Study
) -> Iterator[Finding]:
    """Zero-shot CLIP's label of the image is the content that was asked for."""
    attribute = section.get("attribute")
    if attribute is None:
        yield not_tested("recognition_gap", "the suite names no attribute to recognise")
        return
    metric = f"{attribute}_accuracy_gap"
    labels = _labels(study, attribute)
    asked = frame[frame.key.isin(labels)]
    if asked.empty or not _scored(asked, attribute, labels):
        yield not_tested(metric, f"no image has CLIP's scores of '{attribute}'")
        return
    seen = perceived(asked, attribute, labels)
    value = (seen == asked.key).astype(float).where(seen.isin([*labels, "undetermined"]))
    stage = Stage(metric, SHARE_MARGIN, "below", f"Images whose {attribute} is recognised", True)
    yield from gaps(stage, asked, value)


def _no_person(
    frame: pd.DataFrame, section: Mapping[str, Any], study: Study, status: Mapping[str, Any]
) -> Iterator[Finding]:
    """Images without anybody where one or several people were asked for."""
    metric = "no_person_gap"
    asked = frame[frame.people.isin(["one", "several"])]
    if asked.empty:
        yield not_tested(metric, "the suite does not say which prompts ask for people")
        return
    reason = why_not(status, "faces")
    if "faces_count" in asked and asked.faces_count.notna().any():
        value = (asked.faces_count == 0).astype(float).where(asked.faces_count.notna())
        blind = float(value[asked.arm == "english"].mean())
        if not blind > BLIND:
            stage = Stage(metric, SHARE_MARGIN, "above", "Images without a face", True)
            yield from gaps(stage, asked, value)
            return
        reason = f"the detector finds no face in {blind:.0%} of the English images"
    declared = section.get("no_person")
    if declared is None:
        yield not_tested(metric, f"{reason}, and the suite declares no label of nobody")
        return
    attribute, nobody = str(declared["attribute"]), str(declared["label"])
    labels = _labels(study, attribute)
    if nobody not in labels or not _scored(asked, attribute, labels):
        yield not_tested(metric, f"{reason}; no image has CLIP's scores of '{attribute}'")
        return
    seen = perceived(asked, attribute, labels)
    value = (seen == nobody).astype(float).where(seen.isin(labels))
    stage = Stage(metric, SHARE_MARGIN, "above", "Images labelled as without a person", True)
    yield from gaps(stage, asked, value)


def _shifts(frame: pd.DataFrame, section: Mapping[str, Any], study: Study) -> Iterator[Finding]:
    """The share of each attribute's positive label, where people may be seen."""
    attributes = section.get("attributes", [])
    if not attributes:
        yield not_tested("demographic_shift", "the suite names no attributes to compare")
    people = frame[frame.people != "none"]
    for attribute in attributes:
        declared, labels = study.suite.section("attributes")[attribute], _labels(study, attribute)
        metric = "shift_" + str(declared["metric"]).removeprefix("share_")
        if people.empty or not _scored(people, attribute, labels):
            yield not_tested(metric, f"no image has CLIP's scores of '{attribute}'")
            continue
        seen = perceived(people, attribute, labels)
        value = (seen == str(declared["positive"])).astype(float).where(seen.isin(labels))
        said = f"Images perceived as {declared.get('named', declared['positive'])}"
        stage = Stage(metric, float(declared["margin"]), "both", said, True, by_gender=True)
        yield from gaps(stage, people, value)


def _labels(study: Study, attribute: str) -> list[str]:
    declared = study.suite.section("attributes").get(attribute) or {"labels": {}}
    return [str(label) for label in declared["labels"]]


def _scored(frame: pd.DataFrame, attribute: str, labels: list[str]) -> bool:
    columns = [f"clip_{attribute}_{label}" for label in labels]
    return bool(columns) and set(columns) <= set(frame) and bool(np.any(frame[columns].notna()))
