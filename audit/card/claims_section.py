"""The section on another card's claims: each in its own words, with what the run says of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .blocks import Block, Cell, Prose, Row, Section, Table, text
from .claims.judging import OUTCOMES
from .content import Card
from .tables import estimate
from .wording import clean, markdown, metric, where

TITLE = "Claims of an existing card"
BEFORE = "What was not tested and what failed"

_ABOUT = (
    "What the card {name} (SHA-256 {sha}) says, sentence by sentence, against the findings of this "
    "run. {counts}. The patterns that find a claim know the words in which cards are written, not "
    "their meaning: read each claim beside what it was read as. A claim that something happens is "
    "supported by one finding beyond its reference and contradicted when all lie within; a claimed "
    "share is held against the interval. Nothing is corrected for the number of claims."
)


def with_claims(sections: Sequence[Section], card: Card) -> list[Section]:
    """The sections of a card, and the claims before what was not tested; without claims as is."""
    if not card.claims:
        return list(sections)
    places = [at for at, section in enumerate(sections) if section.title == BEFORE]
    at = places[0] if places else len(sections)
    return [*sections[:at], Section(TITLE, _blocks(card)), *sections[at:]]


def _blocks(card: Card) -> list[Block]:
    document = card.claims
    counted = document["counts"]
    counts = ", ".join(
        f"{counted[name]:,} {name}"
        for name in ("contradicted", "supported", "inconclusive", "not testable")
    )
    said = f"Of {counted['claims']:,} claims: {counts}"
    blocks: list[Block] = [
        Prose(
            _ABOUT.format(
                name=markdown(document["card"]), sha=document["sha256"][:12] + "…", counts=said
            )
        )
    ]
    known = {finding.id: finding for finding in card.findings}
    columns = ["Claim", "Line", "Outcome", "Read as", "Measured", "Why"]
    ordered = sorted(document["claims"], key=lambda claim: OUTCOMES.index(claim["outcome"]))
    for folded, title in ((False, "Claims that were tested"), (True, "Claims not testable")):
        rows = [
            Row([_words(claim), text(claim["line"]), _outcome(claim), text(clean(claim["read_as"])),
                 _measured(claim, known), text(clean(claim["because"]))],
                claim["finding"] or "")
            for claim in ordered
            if (claim["outcome"] == "not testable") == folded
        ]  # fmt: skip
        kept = [at for at, _ in enumerate(columns) if any(row.cells[at].text for row in rows)]
        if rows:
            rows = [Row([row.cells[at] for at in kept], row.finding) for row in rows]
            blocks.append(Table(title, [columns[at] for at in kept], rows, folded=folded))
    if document["unread"]:
        rows = [
            Row([text(clean(one["statement"])), text(one["line"]), text(one["subject"])])
            for one in document["unread"]
        ]
        note = "They speak of something that can be tested, in words that no pattern reads."
        columns = ["Statement", "Line", "Subject"]
        blocks.append(Table("Statements for a person to read", columns, rows, note, folded=True))
    if document["problems"]:
        blocks.append(
            Prose("Of the file: " + "; ".join(markdown(p) for p in document["problems"]) + ".")
        )
    return blocks


def _words(claim: Mapping[str, Any]) -> Cell:
    return text(clean(claim["claim"]))


def _outcome(claim: Mapping[str, Any]) -> Cell:
    return Cell((str(claim["outcome"]),), "verdict")


def _measured(claim: Mapping[str, Any], known: Mapping[str, Any]) -> Cell:
    finding = known.get(claim["finding"] or "")
    if finding is None:
        return text("")
    named = f"{metric(finding.metric).label} ({where(finding)})"
    return Cell((f"{clean(named)}: ", *estimate(finding).parts))
