"""Whom does the model draw when nobody says?

Asked: prompts that name an occupation, a trait or a scene and nothing else about the person, in one
or several wordings, and the same prompts with an identity inserted; the same seeds for each.

Measured: what zero-shot CLIP perceives in each image, *undetermined* where two labels are too near
each other; further instruments where there are any, and how far they agree. No face, several faces,
undetermined, blocked, failed and missing images are counted as what they are, and Manski's (1989)
bounds say what a share would be had all of them gone one way. Nothing is made again.

Corrected: by people's labels of these very images (prediction-powered inference), else by the
instrument's error as measured on other images of the model (a file of ``t2i-audit detector-error``;
for the built-in phantoms it is shipped), else by nothing, and then the finding says so. Every
corrected figure stands beside the raw one.

Analysed, each against a declared reference: the share per prompt, Benjamini-Hochberg over the
prompts; over all prompts the mean share, its absolute deviation against what sampling alone gives,
total variation of attributes with more than two labels, amplification of a reference that varies
(log-odds slope), diversity within a prompt; how much the wording matters; cells of two attributes;
what a trait shifts; and for inserted identities the gap in alignment, quality and blocking.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from audit import suites
from audit.detector_error import DetectorError
from audit.errors import AuditError
from audit.evidence import Analysis
from audit.findings import Finding
from audit.label_files import Labels, read_labels
from audit.perception import CLIP, instruments
from audit.plan import Use
from audit.store import Run
from audit.study import Study

from .bias import cells, insertions, prompts, reading, totals, traits, wording
from .bias import shares as share_findings
from .bias.correction import Shares, Sources, shares
from .bias.instruments import agreement
from .bias.settings import Attribute, Settings, path_of, section_of, settings
from .bias.verdicts import judge_shares


class Demographics:
    """See :class:`audit.study.Probe`. Suite sections: ``demographics`` and ``attributes``; the
    keys of the first, which the spec's options override: :data:`probes.bias.settings.KEYS`."""

    name = "demographics"
    question = "Whom does the model draw when the prompt does not say?"
    reference = "Luccioni et al. 2023, Stable Bias; Bianchi et al. 2023; Friedrich et al. 2023"
    detectors = (
        "clip",
        "reader",
        "faces",
        "skin-tone",
        "age-gender",
        "classifier",
        "safety-checker",
    )

    def uses(self, study: Study) -> Iterator[Use]:
        """Every prompt with the same seeds."""
        return prompts.uses(study, settings(study))

    def analyse(self, run: Run, study: Study) -> Analysis:
        """Each estimand in turn, for each attribute."""
        asked = settings(study)
        frame = reading.load(run, asked)
        if frame.empty:
            return Analysis([_untested("the suite names nobody to draw")])
        findings: list[Finding] = []
        tables, said, read = [], {}, []
        for declared in asked.attributes:
            attribute = reading.with_instrument(frame, declared)
            if attribute is None:
                by = f"{declared.instrument} has no" if declared.instrument else "no instrument has"
                findings.append(_untested(f"{by} scores of {declared.name}"))
                continue
            read.append(attribute)
            said[attribute.name] = told = reading.said(frame, attribute, asked)
            sources = _sources(run, study, asked, attribute, frame)
            found = _shares(frame, told, attribute, asked, sources)
            judged = judge_shares(found, study)
            others = {
                name: reading.said(frame, attribute, asked, name)
                for name in instruments(frame, attribute.name, attribute.labels)
                if name != attribute.instrument
            }
            counted = {
                name: reading.units(frame, other, attribute, asked)
                for name, other in others.items()
            }
            findings += share_findings.per_prompt(found, judged, sources, counted, study)
            findings += totals.totals(found, sources, asked)
            findings += share_findings.distances(found, sources)
            findings += _raw(wording.wording(frame, told, attribute))
            findings += _raw(traits.stereotypes(frame, told, attribute))
            for name, other in others.items():
                findings += agreement(frame, told, other, attribute, name)
            tables.append(share_findings.table_of(found, judged, asked))
        crossed, by_subject = cells.intersections(frame, said, tuple(read))
        findings += crossed
        findings += insertions.insertions(frame, said, tuple(read), asked)
        drawn = {"shares": pd.concat(tables, ignore_index=True)} if tables else {}
        return Analysis(findings, drawn | ({} if by_subject.empty else {"cells": by_subject}))

    def files(self, study: Study) -> list[Path]:
        """The files that the analysis reads beside the run: the settings may be another's."""
        section = section_of(study)
        named = [section.get("labels"), section.get("detector_error")]
        for key in ("reference", "amplification"):
            value = str(section.get(key) or "")
            named.append(value if value.endswith(".csv") else None)
        return [path_of(name) for name in named if name]

    def open_prompts(self, run: Run, study: Study) -> set[str]:
        """The base prompts with a share that has no verdict yet: they need more images.

        The intervals are those of the analysis, valid at all declared looks together
        (:mod:`audit.sequential`).
        """
        asked = settings(study)
        frame = reading.load(run, asked)
        if frame.empty:
            return set()
        still: set[str] = set()
        for declared in asked.until:
            attribute = reading.with_instrument(frame, declared)
            if attribute is None:
                continue
            told = reading.said(frame, attribute, asked)
            sources = _sources(run, study, asked, attribute, frame)
            found = _shares(frame, told, attribute, asked, sources)
            verdicts = judge_shares(found, study).verdicts
            undecided = [verdict == "inconclusive" for verdict in verdicts]
            still |= set(found.units.about.loc[undecided, "prompt"].map(str))
        return still


def _raw(findings: list[Finding]) -> list[Finding]:
    """What is measured by the instrument as it is says so."""
    said = "Not corrected for the instrument's error."
    return [dataclasses.replace(one, note=f"{one.note} {said}") for one in findings]


def _shares(
    frame: pd.DataFrame, told: pd.Series, attribute: Attribute, asked: Settings, sources: Sources
) -> Shares:
    return shares(reading.units(frame, told, attribute, asked), told, sources)


def _sources(
    run: Run, study: Study, asked: Settings, attribute: Attribute, frame: pd.DataFrame
) -> Sources:
    """What is known of the instrument's error, and people's labels.

    Raises:
        AuditError: a file that the user named does not fit this run.
    """
    declared = study.suite.section("attributes")
    truth, labels_name, refused = None, "", ""
    if asked.section.get("labels"):
        path = path_of(asked.section["labels"])
        given = read_labels(path, {n: [str(x) for x in a["labels"]] for n, a in declared.items()})
        truth, labels_name, refused = _usable(given, frame, attribute)
    named = asked.section.get("detector_error")
    path = path_of(named) if named else suites.datasets() / f"calibration/{study.spec.model}.json"
    if not named and (not study.suite.section("phantom") or not path.is_file()):
        return Sources(None, "", truth, labels_name, refused)
    known = DetectorError.load(path)
    instrument = attribute.instrument
    problem = known.fits(run, attribute.name, instrument, asked.band(instrument))
    ours = (run.info.get("backend") or {}).get("weights")
    other_model = known.about.get("weights") != ours
    if not named and other_model and not problem:
        problem = "it was measured on other weights of the model"
    if problem:
        if named and known.counts.get(attribute.name):
            raise AuditError(
                f"{path}: {problem}; measure again: t2i-audit detector-error RUN --truth …"
            )
        return Sources(None, f"of {known.name}: {problem}", truth, labels_name, refused)
    error = known.counts[attribute.name][instrument]
    by = "CLIP" if instrument == CLIP else instrument
    name = f"{by} against {known.about.get('truth')}, {error.n:,} images of {len(error.subjects)}"
    name += " subjects" + (f" of another model, {known.about.get('model')}" if other_model else "")
    return Sources(error, name, truth, labels_name, refused)


def _usable(
    given: Labels, frame: pd.DataFrame, attribute: Attribute
) -> tuple[pd.Series | None, str, str]:
    """The labels of the frame's rows and their name, or why they are not used."""
    true = given.of(frame, attribute.name)
    labelled = attribute.name in given.majority and not given.majority[attribute.name].empty
    if labelled and not true.notna().any():
        raise AuditError(f"{given.name}: no label belongs to an image of this run")
    agreed = given.agreement.get(attribute.name)
    if agreed and not agreed.reliable:
        return None, "", f"the labels of {given.name} are not used: {agreed}"
    return true, given.name + (f"; {agreed}" if agreed else ""), ""


def _untested(reason: str) -> Finding:
    return Finding(
        probe="demographics", metric="share", verdict="not_tested", note=f"Not tested: {reason}."
    )
