"""Compositionality by a judge: does a vision-language model say that images show their captions?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from audit.errors import AuditError
from audit.findings import Finding
from audit.statistics import Rate, rate

from .apart import CHUNK, Apart
from .compositions import MARGIN, SAID
from .drawings import draw
from .findings import Asked, not_tested, of_images
from .settings import KINDS, PROBE, Contrast, Settings

DETECTOR = "caption-judge"
DRAWN = 2
"""Drawings of each caption; each is asked about twice."""
YES = 0.5
"""P(yes) / (P(yes) + P(no)) above which an image is judged to show its caption."""


def findings(frame: pd.DataFrame, asked: Settings, apart: Apart) -> Iterator[Finding]:
    """For each kind the share of images that the judge says show their caption.

    Judges say yes too readily, so each is asked of our drawings under their own captions, the
    positive control, and under another of the set, the negative one. The first share is the
    reference; where the judge does not surely tell the two apart, nothing is said of the model.
    See :func:`chance` for what images that show any caption of their set would get.
    """
    for kind in KINDS:
        sets = [one for one in asked.contrasts if one.kind == kind]
        if not sets:
            continue  # the contrast by CLIP says that there are no captions
        reason = apart.why_not(DETECTOR)
        if reason is None and not _scenes(sets):
            reason = "no caption has a drawing, so nothing tells what the judge itself can see"
        if reason is None and "caption_judge_yes" not in frame:
            reason = f"no image has a score of the detector {DETECTOR}"
        metric = f"{kind}_judged"
        if reason is None:
            try:
                control = _control(asked.contrasts, apart)
            except _TooDear as error:
                reason = str(error)
        if reason is not None:
            yield not_tested(PROBE, metric, reason)
            continue
        yield _of_kind(kind, metric, sets, frame, control[control["kind"] == kind])


def _of_kind(
    kind: str, metric: str, sets: list[Contrast], frame: pd.DataFrame, control: pd.DataFrame
) -> Finding:
    own, swapped = (_share(control[control["own"] == mine]) for mine in (True, False))
    if own.estimate is None or swapped.estimate is None:
        return not_tested(PROBE, metric, "the judge says neither yes nor no of our drawings")
    assert own.ci is not None and swapped.ci is not None
    told = (
        f"of our drawings it says so of {own.estimate:.0%} of {own.n} under their own captions and "
        f"of {swapped.estimate:.0%} of {swapped.n} under swapped ones"
    )
    if not own.ci[0] > swapped.ci[1]:
        return not_tested(PROBE, metric, f"this judge does not tell captions apart: {told}")
    rows = frame[frame["part"] == kind]
    sizes = {one.key: len(one.captions) for one in sets}
    by_chance = chance([sizes[key] for key in rows["contrast"]], own.estimate, swapped.estimate)
    answers = rows["caption_judge_answer"].dropna()
    unsure = int((answers == "undetermined").sum())
    said = pd.to_numeric(rows["caption_judge_yes"]).astype(float)
    yes = said.map(lambda value: None if np.isnan(value) else bool(value > YES)).astype(object)
    count, answered = int((said > YES).sum()), int(said.notna().sum()) + unsure
    detail: dict[str, Any] = {
        "chance": by_chance,
        "drawings": own.n,
        "drawings_yes": own.events,
        "drawings_interval": list(own.ci),
        "swapped": swapped.n,
        "swapped_yes": swapped.events,
        "swapped_interval": list(swapped.ci),
        "drawings_undetermined": int((control["answer"] == "undetermined").sum()),
        "answers": {str(name): int(n) for name, n in answers.value_counts().items()},
        # Were each image of which the judge is unsure a no, or each a yes.
        "bounds": [count / answered, (count + unsure) / answered] if answered else None,
    }
    note = (
        f"Images of which a vision-language judge says that they show their caption; asked is "
        f"{SAID[kind]}. Of {unsure} it was unsure: they are not in the share. Chance is "
        f"{by_chance:.0%}; {told}."
    )
    return of_images(
        PROBE,
        metric,
        frame,
        yes,
        Asked(own.estimate, "our drawings of the captions", MARGIN, "below"),
        note,
        where={"part": kind},
        clusters="contrast",
        detail=detail,
    )


def chance(captions: Sequence[int], own: float, swapped: float) -> float:
    """Share of yes of images that each show a caption drawn from their set.

    Args:
        captions: for each image how many its set has.
        own, swapped: the judge's shares of yes where a picture shows its caption and where not.

    >>> chance([2, 2], 1.0, 0.0)
    0.5
    """
    right = float(np.mean([1 / count for count in captions]))
    return right * own + (1 - right) * swapped


def _share(control: pd.DataFrame) -> Rate:
    known = control[control["yes"].notna()]
    return rate((known["yes"] > YES).to_numpy(bool), known["contrast"])


class _TooDear(AuditError):
    """The controls alone need more requests than the budget has."""


def _scenes(sets: tuple[Contrast, ...] | list[Contrast]) -> list[dict[str, Any]]:
    """Drawings, each with its own caption and with the next of its set."""
    scenes: list[dict[str, Any]] = []
    for one in sets:
        captions = list(one.captions)
        for place, caption in enumerate(captions):
            if not one.captions[caption]:
                continue
            for seed in range(DRAWN):
                for own in (True, False):
                    said = caption if own else captions[(place + 1) % len(captions)]
                    about = {"kind": one.kind, "contrast": one.key, "caption": caption}
                    scenes.append({**about, "asked": said, "own": own, "seed": seed})
    return scenes


def _control(sets: tuple[Contrast, ...], apart: Apart) -> pd.DataFrame:
    """The table ``judged``: our drawings, a caption, and what the judge said, as raw scores."""

    def compute() -> pd.DataFrame:
        scenes, judge = _scenes(sets), apart.judge
        if len(scenes) > judge.budget:
            raise _TooDear(
                f"our drawings alone need {len(scenes)} requests and the budget has "
                f"{judge.budget}: raise it, as in detectors: {{{DETECTOR}: {{budget: …}}}}"
            )
        drawing = {(one.key, text): how for one in sets for text, how in one.captions.items()}
        found = []
        for start in range(0, len(scenes), CHUNK):
            part = scenes[start : start + CHUNK]
            images = [draw(drawing[one["contrast"], one["caption"]], one["seed"]) for one in part]
            found += judge.judge([one["asked"] for one in part], images)
        return pd.DataFrame(scenes).assign(
            yes=np.array([one.yes for one in found], float),
            answer=[one.answer for one in found],
            raw=[one.raw for one in found],
            error=[one.error for one in found],
        )

    depends = [apart.identity(DETECTOR), DRAWN, [(one.kind, dict(one.captions)) for one in sets]]
    return apart.measured("judged", depends, compute)
