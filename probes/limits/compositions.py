"""Compositionality: does the image fit its caption better than the same words put otherwise?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from audit.findings import Finding
from audit.statistics import rate

from .apart import Apart, unit
from .drawings import draw
from .findings import Asked, not_tested, of_images
from .settings import KINDS, PROBE, Contrast, Settings

MARGIN = 0.15
"""24 images that all succeed bound a rate from below at 0.862 (Wilson)."""
DRAWN = 4
"""Drawings of each caption."""
SAID = {
    "binding": "which attribute belongs to which object",
    "counting": "how many there are",
    "spatial": "what is where",
}
Texts = Mapping[str, NDArray[np.float64]]


def findings(frame: pd.DataFrame, asked: Settings, apart: Apart) -> Iterator[Finding]:
    """For each kind the share of images that CLIP puts to their own caption.

    CLIP itself is poor at this (Thrush et al. 2022, Winoground), so the same captions are put to
    our drawings of them first. The drawings are the reference; where CLIP is not surely above
    chance on them, nothing is said of the model.
    """
    for kind in KINDS:
        sets = [one for one in asked.contrasts if one.kind == kind]
        reason = apart.why_not("clip")
        if not sets:
            reason = f"the suite has no captions of that kind ({SAID[kind]})"
        elif not any(drawing for one in sets for drawing in one.captions.values()):
            reason = "no caption has a drawing, so nothing tells what CLIP itself can see"
        elif reason is None and "clip_embedding" not in frame:
            reason = "no image has a score of the detector clip"
        metric = f"{kind}_accuracy"
        if reason is not None:
            yield not_tested(PROBE, metric, reason)
            continue
        yield _of_kind(kind, metric, sets, frame, asked, apart)


def _of_kind(
    kind: str,
    metric: str,
    sets: list[Contrast],
    frame: pd.DataFrame,
    asked: Settings,
    apart: Apart,
) -> Finding:
    texts = apart.captions([text for one in asked.contrasts for text in one.captions])
    control = _scenes(asked.contrasts, texts, apart)
    control = control[control["kind"] == kind]
    seen = rate(control["correct"].to_numpy(bool), control["contrast"])
    rows = frame[frame["part"] == kind]
    others = {one.key: list(one.captions) for one in sets}
    asked_of = rows if len(rows) else control  # under a limit there may be no image of this kind
    chance = float(np.mean([1 / len(others[key]) for key in asked_of["contrast"]]))
    detail: dict[str, Any] = {
        "chance": chance,
        "drawings": len(control),
        "drawings_correct": int(control["correct"].sum()),
        "drawings_interval": list(seen.ci or ()),
    }
    assert seen.estimate is not None and seen.ci is not None
    if not seen.ci[0] > chance:
        reason = (
            f"this CLIP does not even tell our drawings apart: {seen.estimate:.0%} of "
            f"{len(control)}, chance {chance:.0%}"
        )
        return not_tested(PROBE, metric, reason)
    scored = rows["clip_embedding"].notna()
    margins = pd.Series(
        [
            margin(np.asarray(vector), own, others[key], texts) if known else None
            for vector, own, key, known in zip(
                rows["clip_embedding"], rows["text"], rows["contrast"], scored, strict=True
            )
        ],
        rows.index,
        dtype=object,
    )
    correct = margins.map(lambda value: None if value is None else bool(value > 0))
    known = margins.dropna().astype(float)
    detail["mean_margin"] = float(known.mean()) if len(known) else None
    note = (
        f"Images that CLIP puts to their own caption and not to one that differs in {SAID[kind]}. "
        f"Chance is {chance:.0%}; of {len(control)} drawings of the same captions CLIP puts "
        f"{seen.estimate:.0%} right."
    )
    reference = Asked(seen.estimate, "our drawings of the captions", MARGIN, "below")
    return of_images(
        PROBE,
        metric,
        frame,
        correct,
        reference,
        note,
        where={"part": kind},
        clusters="contrast",
        detail=detail,
    )


def margin(image: NDArray[np.floating], own: str, captions: list[str], texts: Texts) -> float:
    """Cosine with its own caption minus the best one with another of the set."""
    cosines = {caption: float(unit(image[None])[0] @ texts[caption]) for caption in captions}
    return cosines.pop(own) - max(cosines.values())


def _scenes(sets: tuple[Contrast, ...], texts: Texts, apart: Apart) -> pd.DataFrame:
    """The table ``scenes``: our drawings of the captions, and whether CLIP puts them right."""

    def compute() -> pd.DataFrame:
        rows: list[dict[str, Any]] = [
            {"kind": one.kind, "contrast": one.key, "caption": caption, "seed": seed}
            for one in sets
            for caption, drawing in one.captions.items()
            if drawing
            for seed in range(DRAWN)
        ]
        by_key = {one.key: one.captions for one in sets}
        images = [draw(by_key[row["contrast"]][row["caption"]], row["seed"]) for row in rows]
        found = apart.embed(images)
        values = [
            margin(vector, row["caption"], list(by_key[row["contrast"]]), texts)
            for vector, row in zip(found, rows, strict=True)
        ]
        return pd.DataFrame(rows).assign(margin=values, correct=[value > 0 for value in values])

    depends = [apart.clip_identity, DRAWN, [(one.kind, dict(one.captions)) for one in sets]]
    return apart.measured("scenes", depends, compute)
