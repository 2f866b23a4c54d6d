"""claims.json as lines for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from audit.card.wording import clean

from .judging import OUTCOMES

WIDTH = 100


def table(document: Mapping[str, Any]) -> Iterator[str]:
    """Every claim with its outcome, the contradicted first; then the counts."""
    name, counts = clean(document["card"]), document["counts"]
    for outcome in OUTCOMES:
        for claim in document["claims"]:
            if claim["outcome"] == outcome:
                yield f"{outcome:<13} {name}:{claim['line']}  {claim['kind']}"
                yield from _indented(f"“{clean(claim['claim'])}”")
                found = f"{clean(claim['finding'])}: " if claim["finding"] else ""
                yield from _indented(found + clean(claim["because"]))
    said = ", ".join(f"{counts[outcome]} {outcome}" for outcome in OUTCOMES)
    yield f"{counts['claims']} claims in {counts['statements']} statements: {said}"
    skip = {"claims", "statements", "lines", *OUTCOMES}
    for what, number in counts.items():
        if what not in skip and number:
            yield f"{number:>6} {what}"


def _indented(text: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=" " * 14, subsequent_indent=" " * 14, break_long_words=False
    )
