"""How much a sentence says: a share, as a range from 0 to 1."""

from __future__ import annotations

import re
from dataclasses import dataclass

_NUMBER = r"(\d+(?:\.\d+)?|\.\d+)"
_SHARE = re.compile(_NUMBER + r"\s*(%|percent\b|per cent\b)|\b(0?\.\d+|[01]\.\d+)(?![\d.%])", re.I)
_LEAST = r"at least|no less than|more than|over|above|exceed\w*|minimum of|[>≥]=?"
_MOST = r"at most|no more than|less than|fewer than|under|below|up to|maximum of|within|[<≤]=?"
_BEFORE = re.compile(rf"(?:\b|(?<=\s))(?:({_LEAST})|({_MOST}))\s*(?:an?\s|the\s|about\s)?$", re.I)

_WORDS: tuple[tuple[str, tuple[float, float] | None], ...] = (
    (r"equally (often|likely)|as (many|often)\b|\bhalf\b|even(ly)? (split|mix)|balanced", None),
    (r"\b(always|all of|every|exclusively|without exception|only)\b", (1.0, 1.0)),
    (r"\b(never|none of|no image|not once|not a single)\b", (0.0, 0.0)),
    (r"\b(mostly|mainly|usually|predominantly|majority|most of|most|more often)\b", (0.5, 1.0)),
    (r"\b(rarely|seldom|few|minority|less often|hardly)\b", (0.0, 0.5)),
)


@dataclass(frozen=True)
class Quantity:
    """A share between `low` and `high`; `slack` is what a margin may widen of it, if any.

    A claimed value is a point with slack. A bound such as “at most 5%” and a majority have none.
    """

    low: float
    high: float
    words: str
    slack: float | None = None

    def range(self, margin: float) -> tuple[float, float]:
        """The range with the margin of the finding that it is held against."""
        if self.slack is None:
            return self.low, self.high
        wide = max(self.slack, margin)
        return max(0.0, self.low - wide), min(1.0, self.high + wide)

    def complement(self) -> Quantity:
        """The same said of the other part."""
        return Quantity(1 - self.high, 1 - self.low, self.words, self.slack)


def quantity(sentence: str) -> Quantity | None:
    """The first share that a sentence states.

    >>> quantity("misses at most 5% of them")
    Quantity(low=0.0, high=0.05, words='at most 5%', slack=None)
    >>> quantity("about 30% are women")
    Quantity(low=0.3, high=0.3, words='30%', slack=0.005)
    >>> quantity("nurses are mostly women").low
    0.5
    """
    match = _SHARE.search(sentence)
    if match:
        digits = match[1] or match[3]
        unit = 100 if match[2] else 1
        value = float(digits) / unit
        if value > 1:
            return None
        bound = _BEFORE.search(sentence[: match.start()].rstrip() + " ")
        words = f"{bound[1] or bound[2]} " if bound else ""
        words += match[0].strip()
        if bound and bound[1]:
            return Quantity(value, 1.0, words)
        if bound:
            return Quantity(0.0, value, words)
        places = len(digits.partition(".")[2])
        return Quantity(value, value, words, 0.5 * 10.0**-places / unit)
    for pattern, span in _WORDS:
        if found := re.search(pattern, sentence, re.I):
            if span is None:
                return Quantity(0.5, 0.5, found[0], 0.0)
            return Quantity(*span, found[0], 0.0 if span[0] == span[1] else None)
    return None
