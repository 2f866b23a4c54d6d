"""Legible text: is the word that was asked for written in the image?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from audit.detectors.text import best_character_error_rate, read_text, reader_settings
from audit.findings import Finding

from .apart import Apart
from .drawings import write
from .findings import Asked, not_tested, of_images
from .settings import PROBE, Settings, Word

MOST = 512
"""Pixels of a side at which our signs are written at most."""
MARGIN = 0.15
"""24 images that all succeed bound a rate from below at 0.862 (Wilson)."""


def findings(frame: pd.DataFrame, asked: Settings, apart: Apart) -> Iterator[Finding]:
    """Share of images with exactly the word, and the character error rate.

    The reference is the same reader on the same words, written by us at the same size: what is
    missed there is the reader's fault and not the model's.
    """
    metrics = ("text_exact_match", "text_character_error_rate")
    rows = frame[frame["part"] == "text"] if len(frame) else frame
    reason = apart.why_not("text")
    if not asked.words:
        reason = "the suite asks for no text"
    elif reason is None and "text_lines" not in frame:
        reason = "no image has a score of the detector text"
    if reason is not None:
        for metric in metrics:
            yield not_tested(PROBE, metric, reason)
        return
    control = controls(asked.words, apart)
    errors = pd.Series(
        [
            best_character_error_rate(list(lines), says) if known else None
            for lines, says, known in zip(
                rows["text_lines"], rows["says"], rows["text_lines"].notna(), strict=True
            )
        ],
        rows.index,
        dtype=object,
    )
    exact = errors.map(lambda error: None if error is None else error == 0)
    read, drawn = float(control["exact"].mean()), len(control)
    named = "the same words, written by this audit"
    counted = f"Of {drawn} such signs the reader reads {read:.0%} exactly."
    share = "Images in which the word that was asked for is read exactly, letters and digits alone"
    yield of_images(
        PROBE,
        metrics[0],
        frame,
        exact,
        Asked(read, named, MARGIN, "below"),
        f"{share}. {counted}",
        where={"part": "text"},
        detail={"controls": drawn, "controls_read": int(control["exact"].sum())},
    )
    error = float(control["error"].mean())
    yield of_images(
        PROBE,
        metrics[1],
        frame,
        errors,
        Asked(error, named, MARGIN, "above"),
        "Wrong, missing and added characters over those asked for, at most 1, of the lines that "
        f"come nearest. {counted}",
        where={"part": "text"},
        detail={"controls": drawn},
    )


def controls(words: tuple[Word, ...], apart: Apart) -> pd.DataFrame:
    """The table ``words``: each word written dark on light and light on dark, and what is read."""
    made = apart.study.request("", 0)
    side = min(made.height, made.width, MOST)
    wanted = list(dict.fromkeys(word.says for word in words))

    def compute() -> pd.DataFrame:
        rows: list[dict[str, Any]] = []
        for says in wanted:
            for dark in (False, True):
                lines = [line.text for line in read_text(write(says, side, dark=dark))]
                error = best_character_error_rate(lines, says)
                rows.append({"says": says, "dark": dark, "read": " ".join(lines), "error": error})
        frame = pd.DataFrame(rows)
        return frame.assign(exact=frame["error"] == 0)

    return apart.measured("words", [reader_settings(), wanted, side], compute)
