"""The claims that this toolkit can test: how a sentence makes one, and which findings answer it.

Each kind is a proposition about the model. A sentence speaks of it when `subject` is found in it;
the first of its `readings` that is found says whether the sentence affirms or denies it. A sentence
that speaks of it and is read neither way is kept as such: a person has to read it.

The patterns know English. They look for the words in which cards are written, not for meaning, so
every claim is shown with its own words and line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from .kinds import KINDS, Kind
from .narrowing import language_names
from .quantities import Quantity, quantity
from .reading import Document, Statement

Reading = Literal["affirmed", "denied", "stated"]

NOT_CLAIMS = re.compile(
    r"misuse|out[- ]of[- ]scope|malicious|citation|cite|how to|usage|direct use|^uses?$"
    r"|intended use|licen[cs]e|example|acknowledg|contact|recommend|download|installation"
    r"|glossary|annex|summary of verdicts|claims of",
    re.I,
)
"""Headings under which a card forbids, recommends or quotes; the innermost one decides."""


@dataclass(frozen=True)
class Claim:
    """A statement, the kind of claim that it makes, and which way.

    Attributes:
        reading: ``affirmed`` or ``denied``, of the kind's proposition; ``stated``: a share.
        amount: the share, where the statement says one.
    """

    kind: Kind
    statement: Statement
    reading: Reading
    amount: Quantity | None = None


@dataclass(frozen=True)
class Found:
    """The claims of a card, and the statements that touch a subject and say nothing of it."""

    claims: Sequence[Claim]
    unread: Sequence[tuple[Statement, str]]
    passed_over: int


def claims(document: Document) -> Found:
    """Every claim of a document, in its order."""
    made: list[Claim] = []
    unread: list[tuple[Statement, str]] = []
    passed_over = 0
    for statement in document.statements:
        if statement.section and NOT_CLAIMS.search(statement.section[-1]):
            passed_over += 1
            continue
        here = list(_of(statement))
        made += [claim for claim in here if isinstance(claim, Claim)]
        if here and all(isinstance(kind, Kind) for kind in here):
            names = ", ".join(kind.name for kind in here if isinstance(kind, Kind))
            unread.append((statement, names))
    return Found(made, unread, passed_over)


def _of(statement: Statement) -> Iterator[Claim | Kind]:
    """The claims of a statement; a kind alone, where it is spoken of and not read."""
    text = statement.text
    if not _anything().search(text):
        return
    for kind in KINDS:
        if not pattern(kind.subject).search(text):
            continue
        if kind.unless and pattern(kind.unless).search(text):
            continue
        amount = quantity(text) if kind.numbers else None
        if amount is not None and (kind.numbers == "required" or not _vague(amount)):
            yield Claim(kind, statement, "stated", amount)
            continue
        if kind.numbers == "required":
            continue
        for expression, affirms in kind.readings:
            if pattern(expression).search(text):
                yield Claim(kind, statement, "affirmed" if affirms else "denied")
                break
        else:
            yield kind


def _vague(amount: Quantity) -> bool:
    """Said in words alone: of a rate, a pattern reads them better."""
    return not any(letter.isdigit() for letter in amount.words)


@cache
def pattern(expression: str) -> re.Pattern[str]:
    """A kind's expression, compiled once."""
    names = "|".join(map(re.escape, language_names()))
    return re.compile(expression.replace("{languages}", names), re.IGNORECASE)


@cache
def _anything() -> re.Pattern[str]:
    return pattern("|".join(f"(?:{kind.subject})" for kind in KINDS))
