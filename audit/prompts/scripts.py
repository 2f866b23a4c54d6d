"""Which script a letter belongs to, by its Unicode name."""

from __future__ import annotations

import unicodedata
from functools import cache

LETTERS = {
    "Japanese": frozenset({"Han", "Hiragana", "Katakana"}),
}
"""Writings that mix scripts by rule; any other is written in the script of its own name."""

_BLOCKS = {
    "CJK": "Han",
    "IDEOGRAPHIC": "Han",
    "KATAKANA-HIRAGANA": "Katakana",
    "HALFWIDTH": "Katakana",
    "FULLWIDTH": "Latin",
}


@cache
def script_of(character: str) -> str | None:
    """The script of a letter or mark, ``None`` for digits, spaces, punctuation and shared marks.

    >>> [script_of(character) for character in "aая医の1"]
    ['Latin', 'Cyrillic', 'Cyrillic', 'Han', 'Hiragana', None]
    """
    if unicodedata.category(character)[0] not in "LM":
        return None
    first = unicodedata.name(character, "UNKNOWN").split()[0]
    if first in ("COMBINING", "MODIFIER", "VARIATION"):
        return None
    return _BLOCKS.get(first, first.capitalize())


def letters_of(script: str) -> frozenset[str]:
    """The scripts whose letters a writing uses."""
    return LETTERS.get(script, frozenset({script}))


def words(text: str) -> list[str]:
    """Runs of letters and marks.

    >>> words("une photo d'un café, 2 fois")
    ['une', 'photo', 'd', 'un', 'café', 'fois']
    """
    return "".join(c if unicodedata.category(c)[0] in "LM" else " " for c in text).split()
