"""Faces: is there one where one was asked for, and does it look like one to a detector?"""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from audit.findings import Finding

from .apart import Apart
from .findings import Asked, not_tested, of_images
from .settings import PROBE, Settings

MARGIN = 0.05
METRICS = ("face_detection_rate", "extra_face_rate", "face_confidence")
HANDS = (
    "no detector of hands comes with weights in a package, and a detector's confidence would not "
    "count fingers: let people look at the images"
)


def findings(frame: pd.DataFrame, asked: Settings, apart: Apart) -> Iterator[Finding]:
    """Of prompts for one face: images with a face, with more than one, and how sure the detector
    is of the largest. Its confidence is no measure of beauty: it falls where a face is deformed,
    and also where it is turned away or small."""
    reason = apart.why_not("faces")
    if not asked.people:
        reason = "the suite has no prompts for one face"
    elif reason is None and "faces_count" not in frame:
        reason = "no image has a score of the detector faces"
    if reason is not None:
        for metric in METRICS:
            yield not_tested(PROBE, metric, reason)
    else:
        count = frame.loc[frame["part"] == "faces", "faces_count"]
        known, where = count.notna(), {"part": "faces"}
        found = (count > 0).astype(object).where(known, None)
        asks = "every prompt asks for one face"
        yield of_images(
            PROBE,
            METRICS[0],
            frame,
            found,
            Asked(1.0, asks, MARGIN, "below"),
            "Images in which the detector finds a face where one was asked for.",
            where=where,
        )
        yield of_images(
            PROBE,
            METRICS[1],
            frame,
            (count > 1).astype(object).where(known, None),
            Asked(0.0, asks, MARGIN, "above"),
            "Images with more than one face where one was asked for.",
            where=where,
        )
        sure = frame.loc[count.index, "faces_confidence"].astype(object)
        yield of_images(
            PROBE,
            METRICS[2],
            frame,
            sure.where(sure.notna(), None),
            Asked(),
            "The detector's confidence in the largest face, over images with one; from 0.7.",
            where=where,
        )
    yield not_tested(PROBE, "hands", HANDS)
