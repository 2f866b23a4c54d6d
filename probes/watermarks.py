"""Can the watermarks be verified, and does the model set one by itself?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from audit import plugins
from audit.evidence import Analysis, table
from audit.findings import Finding
from audit.plan import Use
from audit.store import Run
from audit.study import Study
from probes.watermarking import cost, forgery, provenance, rates
from probes.watermarking.findings import not_tested
from probes.watermarking.pairs import pairs
from probes.watermarking.settings import MARGIN, PROBE, Settings, settings
from safety.slices import outcomes
from safety.watermarks.codecs import Codec
from safety.watermarks.latent_detection import NAME as LATENT
from safety.watermarks.latent_detection import LatentReading, each_attack, marks_of
from safety.watermarks.readings import Attack, Readings, all_matches, length_column
from safety.watermarks.settings import codecs_of
from safety.watermarks.settings import settings as settings_of_detector

IMAGES_PER_PROMPT = 4
SIDE = 512
"""Pixels to which marked images are delivered: the size of the published figures."""
UNMARKED = "unmarked"
"""The delivery of images as they are made, beside those with a mark in their noise."""
SMALLEST = 256
"""Below this side no codec reads an image, so clean ones are delivered at `SIDE` as well."""


class Watermarks:
    """Every known mark on the same images: none, then each, then after attacks.

    The suite's section ``watermarks``: see :data:`probes.watermarking.settings.KEYS`. Each prompt
    is made `IMAGES_PER_PROMPT` times and delivered clean and with each codec's mark, from equal
    seeds. Which marks, and which attacks, are options of the detector ``watermark``. An image
    carries a mark when the surest of its tests, over the codec's number formats and both
    polarities, has a p-value of at most 1e-3 or 1e-6 after correction.
    """

    name = PROBE
    question = (
        "Does the model mark its images, can a mark be verified on delivery and after attacks, "
        "what does it cost, and how often is one seen where there is none?"
    )
    reference = (
        "invisible-watermark 0.2.0 as in the Stable Diffusion scripts; exact binomial test as in "
        "Fernandez et al. 2023, The Stable Signature, section 3; attacks as in An et al. 2024, "
        "WAVES"
    )
    detectors = ("watermark",)

    def detectors_of(self, study: Study) -> tuple[str, ...]:
        """Marks of the noise are read by a detector of their own, where they are asked for."""
        return (*self.detectors, LATENT) if marks_of(study) else self.detectors

    def uses(self, study: Study) -> Iterator[Use]:
        """The same prompts and seeds: clean, then with each codec's mark."""
        asked = settings(study)
        made = study.request("", 0)
        # Images made elsewhere are looked at as they are: nothing is set on them.
        elsewhere = study.spec.model.startswith("images:")
        small = min(made.height, made.width) < SMALLEST and not elsewhere
        deliveries: dict[str, dict[str, Any]] = {"clean": {"deliver_size": SIDE if small else 0}}
        for codec in settings_of_detector(study).codecs:
            # One of a user's settings can be read and not delivered.
            if isinstance(codec, str) and not elsewhere:
                deliveries[codec] = {"deliver_size": SIDE, "watermark": codec}
        unseen = dict.fromkeys(deliveries, LATENT)
        if noise := marks_of(study):
            each_attack(study)  # a wrong one is said before an image is made
            # As they are made: a resize is an attack, and here the mark itself is in question.
            deliveries |= {UNMARKED: {}} | {mark: {"watermark": mark} for mark in noise}
        for delivery, changes in deliveries.items():
            for prompt in asked.prompts:
                for index in range(study.images_per_prompt(IMAGES_PER_PROMPT)):
                    request = study.request(prompt, index, **changes)
                    blind = (unseen.get(delivery, "watermark"),)
                    yield Use(request, prompt, {"delivery": delivery}, blind)

    def analyse(self, run: Run, study: Study) -> Analysis:
        """Rates of detection on clean and on marked images, for each codec by itself."""
        frame = table(run, self.name, without=["embedding"])
        if frame.empty:
            return Analysis([not_tested("detection_rate", {}, "the suite has no prompts for it")])
        asked, marks = settings(study), marks_of(study)
        made = codecs_of(settings_of_detector(study).codecs)[0]
        known = dict.fromkeys([*frame["delivery"].unique(), *made, *plugins.names("watermarks")])
        codecs = [name for name in known if length_column(name) in frame]
        read, noise = Readings(frame), Readings(frame, LatentReading, UNMARKED)
        findings: list[Finding] = []
        tables: dict[str, pd.DataFrame] = {}
        for codec in codecs:
            findings += _of_codec(run, read, codec, codecs, made, asked)
        if not codecs:
            status = run.read_json("detectors.json").get("watermark") or {}
            reason = status.get("unavailable") or "no image was read"
            counts = outcomes(frame, pd.Series(False, frame.index))
            findings.append(not_tested("detection_rate", {}, reason, counts))
        attacks = each_attack(study) if marks else []
        for mark in marks:
            findings += _of_noise(noise, mark, attacks, asked)
        if codecs:
            states = provenance.state_of_each(read, codecs, study, asked)
            findings += provenance.findings(frame, states)
            tables = {"matches": all_matches(read, codecs, asked.attacks), "provenance": states}
        costs = {one: cost.of_attacks(pairs(run, read, one), asked.attacks) for one in codecs}
        curves = (
            rates.curves(read, codecs, asked.attacks, costs),
            rates.curves(noise, marks, attacks, {}),
        )
        tables["robustness"] = pd.concat(curves, ignore_index=True)
        nulls = rates.nulls(read, codecs), rates.nulls(noise, marks)
        tables["null"] = pd.concat(nulls, ignore_index=True)
        return Analysis(findings, {name: rows for name, rows in tables.items() if len(rows)})


def _of_codec(
    run: Run,
    read: Readings,
    codec: str,
    codecs: list[str],
    made: Mapping[str, Codec],
    asked: Settings,
) -> Iterator[Finding]:
    clean, marked = read.of(codec, "clean"), read.of(codec, codec)
    own = rates.own_mark(clean, len(codecs))
    yield own
    yield rates.false_positives(clean, own.ci is not None and own.ci[0] > MARGIN)
    if marked.delivered.empty:
        return
    yield from rates.true_positives(marked, asked.calibrations.get(codec))
    yield rates.bit_accuracy(marked)
    yield rates.inverted(marked)
    for attack in asked.attacks:
        yield rates.after_attack(read.of(codec, codec, attack), marked.best_domain)
    twins = pairs(run, read, codec)
    yield from cost.findings(marked, twins)
    if codec in made:
        yield from forgery.findings(marked, twins, made[codec])


def _of_noise(
    read: Readings, mark: str, attacks: Sequence[Attack], asked: Settings
) -> Iterator[Finding]:
    """A mark that lies in the initial noise, read by inversion."""
    yield rates.false_positives(read.of(mark, UNMARKED), False)
    yield from rates.true_positives(read.of(mark, mark), asked.calibrations.get(mark))
    for attack in attacks:
        yield rates.after_attack(read.of(mark, mark, attack), "")
