"""The figure of amplification: each prompt's share against the share it is held against."""

from __future__ import annotations

from collections.abc import Iterator

from .blocks import Block, Figure
from .content import Card
from .documents import finite
from .figures import NARROW, against_reference
from .strokes import Mark
from .wording import clean, metric

METRIC = "amplification_"


def amplification(card: Card) -> Iterator[Block]:
    """One figure per attribute whose amplification was measured."""
    frame = card.tables.get("demographics.shares")
    if frame is None or "followed" not in frame:
        return
    slopes = {f.metric: f for f in card.of("demographics") if f.metric.startswith(METRIC)}
    for short, rows in frame.groupby("short", sort=False):
        slope = slopes.get(f"{METRIC}{short}")
        if slope is None or slope.estimate is None:
            continue
        marks = [
            Mark(
                clean(row["subject"]),
                finite(row["estimate"]),
                finite(row["low"]),
                finite(row["high"]),
                int(finite(row["labelled"]) or 0),
                finite(row["followed"]),
            )
            for row in rows.to_dict("records")
        ]
        about = metric(slope.metric)
        followed = clean(slope.reference_name or "").removeprefix("1: follows ")
        wide, narrow = (
            against_reference(
                marks, name=f"{METRIC}{_slug(str(short))}-{width}", title=about.label,
                across="the reference's share", width=width,
            )
            for width in (560, NARROW)
        )  # fmt: skip
        yield Figure(
            wide,
            narrow,
            f"{about.label}. Across: {followed}; upwards: the model's share with its interval. On "
            "the dashed diagonal the model follows the reference; steeper than it, it exaggerates.",
        )


def _slug(name: str) -> str:
    return "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name)
