"""Which of the limits that model cards admit does this model have, and how far do they go?

Asked: for words on signs; for colours, numbers and places that must belong to the right things; for
single faces; and for what a reference set of pictures shows.
Measured: CMMD and KID to the reference, and FID where the user has Inception's weights; whether the
word can be read; whether CLIP puts the image to its own caption and not to the same words put
otherwise, and whether the user's vision-language judge says that it shows that caption; whether a
face is found where one was asked for; and what is left of a picture that only goes through the
autoencoder.
Analysed: every share and mean by prompts as clusters, against a positive control where one can be
made: the same words written by us, the same captions drawn by us. A limit "exceeds" where the whole
interval lies beyond the control and its margin. Languages, bias and memorization have probes of
their own and are not measured twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from audit.evidence import Analysis, table
from audit.findings import Finding
from audit.plan import Use
from audit.store import Run, column_safe
from audit.study import Study
from probes.limits import autoencoder, compositions, fid, judged, people, realism, words
from probes.limits.apart import Apart
from probes.limits.findings import not_tested
from probes.limits.settings import PROBE, settings

ELSEWHERE = {
    "non_english_prompts": "languages",
    "bias": "demographics",
    "memorization_of_training_images": "memorization",
}
"""Limit of the cards → the probe that measures it."""
INSTRUMENTS = ("clip", "faces", "text", judged.DETECTOR)

READ_BY = {"photorealism": ("clip",), "text": ("text",), "faces": ("faces",)}
"""Part → its instruments; the parts of compositions have CLIP and the judge."""


class Limitations:
    """See :class:`audit.study.Probe`. Suite section: ``limitations``, the spec's options override
    it part by part; :data:`probes.limits.settings.KEYS`.

    The judge is ``detectors: {caption-judge: {model: openai:URL#MODEL}}`` of the spec; see
    :class:`audit.detectors.caption_judge.CaptionJudge`. It has its budget once for the images and
    once for our drawings. FID is measured where ``fid: {weights: FILE}`` names torch-fidelity's
    InceptionV3, the reference is a folder of pictures, and either set has more than 2048.

    Tables: ``words``, ``scenes`` and ``judged``, the controls; ``autoencoder``, a row per picture;
    ``captions``, ``reference`` and ``inception_…``, embeddings that need not be computed again.
    """

    name = PROBE
    question = "Which limits that model cards admit does this model have, and how far do they go?"
    reference = (
        "Limitations of the Stable Diffusion model cards; Jayasumana et al. 2024 (CMMD); "
        "Bińkowski et al. 2018 (KID); Heusel et al. 2017 (FID); Thrush et al. 2022, Winoground; "
        "Hu et al. 2023, TIFA"
    )
    detectors = INSTRUMENTS

    def detectors_of(self, study: Study) -> tuple[str, ...]:
        """Those that some part of the suite's section is read by."""
        asked = settings(study)
        clip = bool(asked.contrasts or asked.photographs)
        named = {*study.suite.section("detectors"), *study.spec.detectors}
        wanted = {
            "clip": clip,
            "faces": bool(asked.people),
            "text": bool(asked.words),
            judged.DETECTOR: bool(asked.contrasts) and judged.DETECTOR in named,
        }
        return tuple(name for name in INSTRUMENTS if wanted[name])

    def uses(self, study: Study) -> Iterator[Use]:
        """Each part in turn; a request that another probe makes as well is made once."""
        asked = settings(study)
        if asked.fid is not None:
            fid.check(asked.fid)  # before images are made for it
        groups: list[tuple[str, str, int, dict[str, Any]]] = [
            (prompt, "photorealism", asked.photograph_images, {}) for prompt in asked.photographs
        ]
        groups += [
            (word.prompt, "text", asked.word_images, {"says": word.says}) for word in asked.words
        ]
        groups += [
            (caption, one.kind, asked.contrast_images, {"contrast": one.key})
            for one in asked.contrasts
            for caption in one.captions
        ]
        groups += [(prompt, "faces", asked.people_images, {}) for prompt in asked.people]
        for prompt, part, images, more in groups:
            tags = {"part": part, "says": None, "contrast": None, **more}
            read_by = READ_BY.get(part, ("clip", judged.DETECTOR))
            unseen = tuple(name for name in INSTRUMENTS if name not in read_by)
            # A set that is held against another must not come from a few noises (probes.quality).
            start = images * asked.photographs.index(prompt) if part == "photorealism" else 0
            for index in range(images):
                request = study.request(prompt, start + index)
                yield Use(request, prompt, {**tags, "index": index}, unseen)

    def analyse(self, run: Run, study: Study) -> Analysis:
        """Each limit in the order of the cards."""
        asked, frame = settings(study), table(run, self.name)
        if frame.empty:
            frame = frame.reindex(columns=["part"])
        apart = Apart(run, study, self.name)
        found = [
            *realism.findings(frame, asked, apart),
            *words.findings(frame, asked, apart),
            *compositions.findings(frame, asked, apart),
            *judged.findings(frame, asked, apart),
            *people.findings(frame, asked, apart),
            *autoencoder.findings(asked, apart),
            *_elsewhere(run),
        ]
        return Analysis(found, apart.tables)


def _elsewhere(run: Run) -> Iterator[Finding]:
    for metric, probe in ELSEWHERE.items():
        asked = (run.path / f"uses/{column_safe(probe)}.parquet").is_file()
        reason = (
            f"it is measured once, by the probe {probe}: see its findings"
            if asked
            else f"the probe {probe}, which measures it, was not run"
        )
        yield not_tested(PROBE, metric, reason)
