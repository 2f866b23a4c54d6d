"""Which training images does the model give back?

Asked: captions of a list with what is known of them, the captions that the index of the training
images repeats most, and what the audit's other probes ask; a few seeds of each. Captions that were
never trained on stand beside them: they are the declared negatives, and every figure names them.

Recalled: for each image the nearest training images by CLIP, and its caption's own.
Verified: pixels decide, where the training images can be read. An image is a *verbatim* copy when
its normalised ℓ2 to a training image (Carlini et al. 2023) lies below a threshold that the images
of never-trained captions pass at a stated rate, and else a *template* copy when the error outside
of the regions that vary between seeds does (Webster 2023). A caption is memorized when any of its
images is a copy. How many rows of the index are the matched image is counted, for repetition is the
cause. Where scores are approximate, or the training images are known by caption and address alone,
candidates are listed and nobody is accused; no image is fetched.

Analysed: copy rate of images and share of captions memorized, with intervals over captions, by
number of training copies. For each signal, of the model itself (Wen et al. 2024, Jeon et al. 2025
and others, :mod:`audit.signals`), between seeds, and of the comparison, how well it tells memorized
captions from negatives: AUC, and true-positive rate at the stated false-positive rate; and for
the copy measure and the free signal of the first step combined. Whether a single image was in the
training set is not judged: such membership inference does not work on these models. At last, what
random tokens or another guidance change, on the same captions and seeds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd

from audit.copies import EXTRACTION
from audit.evidence import Analysis, table
from audit.findings import Finding
from audit.plan import Use
from audit.retrieval import Index
from audit.store import Run
from audit.study import Study

from .memorizing import prompts, shares, signals
from .memorizing.candidates import Recalled, recall
from .memorizing.duplicated import same_image_rows
from .memorizing.instruments import Instruments
from .memorizing.mitigation import mitigation
from .memorizing.originals import Originals
from .memorizing.settings import Settings, settings
from .memorizing.verdicts import judged, thresholds
from .memorizing.verification import verify


class Memorization:
    """See :class:`audit.study.Probe`. Suite section ``memorization``, overridden by the spec; its
    keys: :data:`probes.memorizing.settings.KEYS`.

    Tables: ``neighbours``, a row per image with its match and every measure; ``duplication``,
    shares by number of training copies; ``captions``, a row per caption with every signal;
    ``signals``, a row per signal.
    """

    name = "memorization"
    question = "Which training images does the model give back?"
    reference = "Carlini et al. 2023; Somepalli et al. 2023; Webster 2023; Wen et al. 2024"
    detectors = ("clip", "copy-embedding", "memorization-signals")

    def uses(self, study: Study) -> Iterator[Use]:
        """Every caption with a few seeds."""
        asked = settings(study)
        if asked.asks:
            prompts.index_of(asked)  # a damaged one is said before images are made
            yield from prompts.uses(study, asked)

    def analyse(self, run: Run, study: Study) -> Analysis:
        """Recall, verify, judge; then shares, signals and what reduces copying."""
        asked, frame = settings(study), table(run, self.name)
        if frame.empty:
            return Analysis([_untested("no captions were given (option 'captions')")])
        made = frame[frame.image.notna() & (frame.outcome == "ok")].reset_index(drop=True)
        if made.empty:
            return Analysis([_untested("no image was made")])
        instruments, index = Instruments(run, study), prompts.index_of(asked)
        embedded = "clip_embedding" in made and bool(made.clip_embedding.notna().all())
        found = recall(made, index, asked.neighbours, instruments) if index and embedded else None
        originals = Originals(asked.images if found and found.exact else None)
        names = found.names if found else [[]] * len(made)
        measured = verify(run, made, names, originals, asked, instruments)
        pairs = pd.concat([made.rename(columns={"mask": "mask_image"}), measured], axis=1)
        pairs = pairs if found is None else pd.concat([pairs, found.about], axis=1)
        limits = thresholds(pairs, asked)
        pairs = judged(pairs, limits)
        if index is not None and found is not None:
            pairs["match_duplicates"] = _rows_of_matches(
                pairs, index, originals, asked, instruments
            )
        findings: list[Finding] = []
        reason = _why_not(asked, embedded, found, pairs)
        if reason:
            findings.append(_untested(reason))
        else:
            findings += shares.copy_rates(pairs, limits)
            findings += shares.memorized_shares(pairs, limits)
            findings += mitigation(pairs, asked, limits)
            findings = _with_omissions(findings, pairs, found)
        findings += shares.extractions(pairs, asked, EXTRACTION)
        by_caption = signals.captions(pairs, asked)
        detected, rows = signals.detection(by_caption, pairs, asked, bool(found and found.exact))
        tables = {"captions": by_caption}
        if found is not None:
            tables["neighbours"] = _neighbours(run, pairs, originals)
        if not rows.empty:
            tables["signals"] = rows
        if not reason and not (curve := shares.duplication(pairs)).empty:
            tables["duplication"] = curve
        return Analysis(findings + detected, tables)


def _why_not(
    asked: Settings, embedded: bool, found: Recalled | None, pairs: pd.DataFrame
) -> str | None:
    """Why there is no copy verdict."""
    if not asked.index:
        return "no index of the training images was given (option 'index')"
    if not embedded or found is None:
        return "the CLIP detector is not available"
    if not found.exact:
        return (
            "the index gives approximate scores, to which no threshold is applied; the candidates "
            "are listed in the table 'neighbours'"
        )
    if pairs.distance.isna().all():
        return (
            "the training images cannot be read (option 'images'), and similarity of embeddings "
            "alone does not show a copy; the candidates are listed in the table 'neighbours'"
        )
    return None


def _with_omissions(
    findings: list[Finding], pairs: pd.DataFrame, found: Recalled | None
) -> list[Finding]:
    """With what was not compared: rows of the index, and images without a readable candidate."""
    said = []
    if found is not None and (rows := {why: n for why, n in found.left_out.items() if n}):
        said.append(
            "rows of the index that were not compared: "
            + ", ".join(f"{n:,} ({why})" for why, n in rows.items())
        )
    if unread := int(pairs.distance.isna().sum()):
        said.append(
            f"{unread:,} of the {len(pairs):,} images are not counted, for no training image "
            "near them could be read"
        )
    if not said:
        return findings
    return [replace(f, note=f"{f.note} Left out: {'; '.join(said)}.") for f in findings]


def _rows_of_matches(
    pairs: pd.DataFrame,
    index: Index,
    originals: Originals,
    asked: Settings,
    instruments: Instruments,
) -> pd.Series:
    """How many rows of the index are the image that was copied."""
    copies = pairs.matched.where(pairs.kind.isin(["verbatim", "template"]))
    read = [(n, image) for n in copies.dropna().unique() if (image := originals(n)) is not None]
    nothing = pd.Series(np.nan, index=pairs.index)
    embedded = instruments.pictures([image for _, image in read]) if read else None
    if embedded is None:
        return nothing
    rows = same_image_rows(index, embedded, asked.same_image)
    return copies.map({n: float(len(ids)) for (n, _), ids in zip(read, rows, strict=True)})


COLUMNS = (
    "request",
    "image",
    "caption",
    "source",
    "arm",
    "index",
    "duplicates",
    "band",
    "target",
    "nearest",
    "nearest_row",
    "nearest_url",
    "neighbour_caption",
    "similarity",
    "caption_similarity",
    "matched",
    "match",
    "match_duplicates",
    "kind",
    "copied",
    "distance",
    "threshold",
    "verbatim_error",
    "template_error",
    "template_threshold",
    "mask",
    "pdq_distance",
    "copy_similarity",
    "copy_embedding_preset",
    "tiled_l2",
    "ms_ssim",
    "clique",
    "text_noise_first",
    "text_noise_magnitude",
)
"""Of the table ``neighbours``."""


def _neighbours(run: Run, pairs: pd.DataFrame, originals: Originals) -> pd.DataFrame:
    """The table to review: most repeated and closest first, with the matched images stored."""
    pairs = pairs.rename(columns={"text": "caption"})
    stored = {
        name: run.save_image(image)
        for name in pairs.matched.dropna().unique()
        if (image := originals(name)) is not None
    }
    pairs["match"] = pairs.matched.map(stored)
    kept: pd.DataFrame = pairs[[name for name in COLUMNS if name in pairs]]
    return kept.sort_values(["duplicates", "distance"], ascending=[False, True], ignore_index=True)


def _untested(reason: str) -> Finding:
    return Finding("memorization", "copy_rate", verdict="not_tested", note=f"Not tested: {reason}.")
