"""The section on languages: the loss of each against English, and the stages side by side."""

from __future__ import annotations

from collections.abc import Iterator

from audit.findings import Finding

from .blocks import Block, Cell, Figure, Number, Row, Table, text
from .content import Card
from .documents import finite
from .figures import NARROW, WIDE, ladder
from .strokes import Mark
from .wording import clean, metric, plain, where

STAGES = {
    "token_fertility": "Tokens, × English",
    "truncation_gap": "Prompts cut",
    "encoder_drift": "Encoder drift",
    "alignment_gap": "Alignment",
    "alignment_gap_beyond_rewording": "Alignment, beyond rewording",
    "multilingual_alignment_gap": "Alignment, multilingual CLIP",
    "asked_alignment_gap": "Alignment, asked text",
    "no_person_gap": "No person",
}
"""Metric → heading."""


def blocks(card: Card) -> Iterator[Block]:
    """The figure and the table, where the run has what they show."""
    yield from _ladder(card)
    yield from _decomposition(card)


def _ladder(card: Card) -> Iterator[Block]:
    frame = card.tables.get("languages.alignment")
    if frame is None:
        return
    found = {
        str(finding.slice.get("language")): finding.verdict
        for finding in card.of("languages")
        if finding.metric == "alignment_gap" and list(finding.slice) == ["language"]
    }
    marks = [
        Mark(
            clean(row["language"]),
            finite(row["gap"]),
            finite(row["low"]),
            finite(row["high"]),
            int(finite(row["n"]) or 0),
            verdict=str(row.get("verdict") or found.get(str(row["language"]), "inconclusive")),
        )
        for row in frame.to_dict("records")
    ]
    if all(mark.estimate is None for mark in marks):
        return
    about = metric("alignment_gap")
    wide, narrow = (
        ladder(
            marks,
            name=f"ladder-{width}",
            title="Loss against English, by language",
            show=about.show,
            axis="difference from English; negative: worse",
            width=width,
        )
        for width in (WIDE, NARROW)
    )
    yield Figure(
        wide,
        narrow,
        "Loss against English, by language, the largest first. Bar and point: paired difference "
        "in alignment on the same seeds; line: interval; n: pairs.",
    )


def _decomposition(card: Card) -> Iterator[Block]:
    """A row per slice, a column per stage: at which one a language falls behind."""
    by_slice: dict[tuple[tuple[str, str], ...], dict[str, Finding]] = {}
    for finding in card.of("languages"):
        if finding.estimate is not None and finding.slice:
            key = tuple((name, str(value)) for name, value in finding.slice.items())
            by_slice.setdefault(key, {})[finding.metric] = finding
    stages = list(dict.fromkeys(name for found in by_slice.values() for name in found))
    if len(stages) < 2:
        return
    rows = [
        Row([text(where(next(iter(found.values())))), *(_cell(found.get(name)) for name in stages)])
        for found in by_slice.values()
    ]
    yield Table(
        "From the prompt to the picture: where it is lost",
        ["Slice", *map(_heading, stages)],
        rows,
        "In the order in which a prompt becomes a picture; differences are from English. Tokens "
        "and drift explain and are not judged; the intervals stand below.",
    )


def _heading(name: str) -> str:
    """Of a metric that a suite names after one of its attributes, the attribute."""
    if name in STAGES:
        return STAGES[name]
    if name.endswith("_accuracy_gap"):
        return f"{plain(name.removesuffix('_accuracy_gap')).capitalize()} recognised"
    return f"Share {plain(name.removeprefix('shift_'))}"


def _cell(finding: Finding | None) -> Cell:
    if finding is None or finding.estimate is None:
        return text("")
    shown = Number(metric(finding.metric).show(finding.estimate), finding.estimate)
    return Cell((shown, " exceeds") if finding.verdict == "exceeds" else (shown,), "number")
