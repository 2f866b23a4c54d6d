"""One prompt, whoever wrote it, and the English indefinite article."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Prompt:
    """A text to ask a model for, and what it is held against.

    The texts are left out of ``repr``: outside suites hold some that nobody should meet unasked,
    in a traceback or in a log.

    Attributes:
        id: what is asked for; the same in all languages and arms, so it pairs them.
        text: what the model is given.
        language: its code (ISO 639), such as ``de``.
        english_text: the same content in English; the text itself where it is English.
        group: occupation, trait, scene, a suite's category, …
        tags: further columns; values are strings, numbers or booleans.
        where: ``FILE:LINE`` it was read from.
    """

    id: str
    text: str = field(repr=False)
    language: str = "en"
    english_text: str = field(default="", repr=False)
    group: str = ""
    tags: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    where: str = field(default="", compare=False)


# By sound, not by letter. "uni" begins with a consonant unless it is the prefix un-.
_CONSONANT = re.compile(
    r"uni(?!d[^i]|[mn])|us[aeiu]|ut[ei]|ubiq|uk[ru]|uran|uro|eu|ewe|one\b|once\b"
)
_SILENT_H = re.compile(r"(hour|honest|honou?r|heir)")
_SPELLED_WITH_VOWEL = set("AEFHILMNORSX")


def article(phrase: str) -> str:
    """``a`` or ``an``, by the sound the phrase begins with.

    >>> [f"{article(p)} {p}" for p in ("engineer", "user", "honest lawyer", "CEO", "MRI nurse")]
    ['an engineer', 'a user', 'an honest lawyer', 'a CEO', 'an MRI nurse']
    """
    word = phrase.split()[0].strip("'\"“”‘’(") if phrase.split() else ""
    if not word:
        return "a"
    letters = word.split("-")[0]
    if letters.isupper() and letters.isalpha() and len(word) > 1:
        return "an" if letters[0] in _SPELLED_WITH_VOWEL else "a"
    lower = word.lower()
    if _SILENT_H.match(lower):
        return "an"
    return "an" if lower[0] in "aeiou" and not _CONSONANT.match(lower) else "a"
