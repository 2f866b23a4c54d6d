"""Prompt filters that look for the words of a list."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from audit.backends.checkpoints import sha256_file
from audit.detectors.base import Batch
from audit.errors import AuditError
from audit.plugins import did_you_mean
from audit.prompts.reading import text_of
from audit.prompts.scripts import script_of

if TYPE_CHECKING:
    from audit.study import Study

MATCHES = ("exact", "lemmatised", "folded")
Normal = Callable[[str], str]
"""A word as it is compared."""


class Denylist:
    """Entries of one word or several, found as whole words in their order.

    - ``exact``: after Unicode NFC and case folding; whatever is no letter, mark or digit separates
      words.
    - ``lemmatised``: the words' lemmas by dictionary, so that *knives* is found by *knife*, and the
      stems of these (Snowball, Porter 2001), for a dictionary does not know every word.
    - ``folded``: the same after characters that look like Latin letters have become these
      (Unicode TR39, confusables), invisible characters and accents are gone, and compatibility
      forms are plain letters (NFKD).

    Each finds what the one before it finds.

    Args:
        entries: what is denied.
        match: one of :data:`MATCHES`.
        language: a Snowball stemmer's, such as ``english``; one without a dictionary
            (:data:`LEMMAS`) is stemmed alone.

    Raises:
        AuditError: an entry has no word, or the match or language is unknown.

    >>> Denylist(["red hexagon"], "exact").score(["Red  hexagon!", "red hexagons", "red"]).tolist()
    [1.0, 0.0, 0.0]
    >>> Denylist(["red hexagon"], "folded").score(["r\u0435d hex\u200bagons"]).tolist()
    [1.0]
    """

    def __init__(
        self, entries: Iterable[str], match: str = "exact", language: str = "english"
    ) -> None:
        if match not in MATCHES:
            raise AuditError(f"a denylist's match is one of {', '.join(MATCHES)}, not {match!r}")
        self._fold = match == "folded"
        self._normal: Normal = str if match == "exact" else lemmatiser(language)
        self._entries: dict[tuple[str, ...], str] = {}
        for entry in entries:
            words = self._words(entry)
            if not words:
                raise AuditError(f"the denylist's entry {entry!r} has no word")
            self._entries.setdefault(words, entry)
        self._starts: dict[str, list[tuple[str, ...]]] = {}
        for words in self._entries:
            self._starts.setdefault(words[0], []).append(words)

    def _words(self, text: str) -> tuple[str, ...]:
        return tuple(self._normal(word) for word in split(fold(text) if self._fold else text))

    def found(self, text: str) -> list[str]:
        """The entries in a text, in the text's order, as often as they are there."""
        words = self._words(text)
        return [
            self._entries[entry]
            for place, word in enumerate(words)
            for entry in self._starts.get(word, ())
            if words[place : place + len(entry)] == entry
        ]

    def score(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """How many entries each text holds, shape (n,); a denylist blocks from 1 on."""
        return np.array([len(self.found(text)) for text in texts], float)


def split(text: str) -> list[str]:
    """Case-folded words of letters, marks and digits; joiners inside a word vanish.

    >>> split("A red-brick Straße, 2 CAFE\u0301S")
    ['a', 'red', 'brick', 'strasse', '2', 'cafés']
    """
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
    return "".join(c if unicodedata.category(c)[0] in "LMN" else " " for c in folded).split()


def fold(text: str) -> str:
    """Plain letters for what looks like them: a skeleton in the sense of TR39 with Latin first.

    A word is folded to Latin only where the character has a Latin look-alike; a word of another
    script without one stays, apart from accents.

    >>> fold("r\u0435d h\u00e9x\u200bag\uff4fn"), fold("красный")
    ('red hexagon', 'кpacный')
    """
    table = _latin_look_alikes()
    letters = []
    for character in unicodedata.normalize("NFC", text):
        if unicodedata.category(character) == "Cf":
            continue
        letters.append(table.get(character) or character)
    plain = unicodedata.normalize("NFKD", "".join(letters))
    latin = "".join(
        c for place, c in enumerate(plain)
        if not (unicodedata.combining(c) and _base(plain, place) == "Latin")
    )  # fmt: skip
    return unicodedata.normalize("NFC", "".join(table.get(c) or c for c in latin))


def _base(text: str, place: int) -> str | None:
    """The script of the letter that a combining mark stands on."""
    while place and unicodedata.combining(text[place]):
        place -= 1
    return script_of(text[place])


@cache
def _latin_look_alikes() -> Mapping[str, str]:
    """Character → the lower-case Latin letter it looks like, by Unicode's table of confusables."""
    from confusable_homoglyphs.confusables import confusables_data

    table: dict[str, str] = {}
    for character, alike in confusables_data.items():
        if len(character) != 1 or character.isascii() or unicodedata.category(character)[0] != "L":
            continue
        latin = sorted(
            other["c"] for other in alike
            if len(other["c"]) == 1 and other["c"].isascii() and other["c"].isalpha()
        )  # fmt: skip
        if latin:
            # A lower-case letter first: a capital I and a small l look like many the same ones.
            lower = [letter for letter in latin if letter.islower()]
            table[character] = (lower or latin)[0].lower()
    return table


LEMMAS: Mapping[str, str] = {
    "arabic": "ar", "armenian": "hy", "catalan": "ca", "czech": "cs", "danish": "da",
    "dutch": "nl", "english": "en", "esperanto": "eo", "estonian": "et", "finnish": "fi",
    "french": "fr", "german": "de", "greek": "el", "hindi": "hi", "hungarian": "hu",
    "indonesian": "id", "irish": "ga", "italian": "it", "lithuanian": "lt", "norwegian": "nb",
    "persian": "fa", "polish": "pl", "porter": "en", "portuguese": "pt", "romanian": "ro",
    "russian": "ru", "serbian": "hbs", "spanish": "es", "swedish": "sv", "turkish": "tr",
}  # fmt: skip
"""Snowball's name of a language → simplemma's, where both have it."""


def lemmatiser(language: str) -> Normal:
    """The stem of a word's lemma: of *knives* that of *knife*.

    Raises:
        AuditError: there is no stemmer for the language.
    """
    import simplemma
    import snowballstemmer

    known = snowballstemmer.algorithms()
    if language not in known:
        raise AuditError(
            f"no stemmer for '{language}'{did_you_mean(language, known)}; there are: "
            f"{', '.join(known)}"
        )
    stem: Normal = snowballstemmer.stemmer(language).stemWord
    code = LEMMAS.get(language)
    if code is None:
        return stem
    # The lemma of a German noun begins with a capital.
    return lambda word: stem(simplemma.lemmatize(word, lang=code).casefold())


def read_denylist(path: Path) -> list[str]:
    """One entry a line; empty lines and those that begin with ``#`` are left out.

    Raises:
        AuditError: with FILE:LINE: a line has no word; or the file has no entry.
    """
    entries = []
    for number, line in enumerate(text_of(path).splitlines(), start=1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        if not split(entry):
            raise AuditError(f"{path}:{number}: no word in {entry!r}")
        entries.append(entry)
    if not entries:
        raise AuditError(f"{path}: no entry: write one word or phrase a line")
    return entries


class PromptDenylist:
    """A user's denylist on each image's prompt; none ships with the toolkit.

    Options (spec: ``detectors: {prompt-denylist: {…}}``): `file`, one entry a line, or `words`, a
    list; `language` of the words, default ``english``.

    Columns:
        exact, lemmatised, folded: how many entries of the list are in the prompt, each way of
            :class:`Denylist`.
        found: the entries by ``folded``, joined by ``; ``.
    """

    name = "prompt-denylist"
    sees_images = False

    def __init__(self, study: Study) -> None:
        reason = self.unavailable(study)
        if reason is not None:
            raise AuditError(reason)
        options = study.detector_options(self.name)
        self._file = Path(str(options["file"])).expanduser() if options.get("file") else None
        words = options.get("words", [])
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise AuditError(f"{self.name}: words is a list of texts (yes and no in quotes)")
        self._entries = [*(read_denylist(self._file) if self._file else []), *words]
        self._language = str(options.get("language", "english"))
        self._lists = {name: Denylist(self._entries, name, self._language) for name in MATCHES}

    @classmethod
    def unavailable(cls, study: Study) -> str | None:
        """The list is the user's."""
        options = study.detector_options(cls.name)
        if options.get("file") or options.get("words"):
            return None
        return (
            f"no list: name one in the spec, as in detectors: {{{cls.name}: {{file: words.txt}}}}"
        )

    def describe(self) -> Mapping[str, Any]:
        """See :class:`audit.detectors.Detector`."""
        from importlib.metadata import version

        return {
            "entries": self._entries,
            "language": self._language,
            "simplemma": version("simplemma"),
            "snowballstemmer": version("snowballstemmer"),
            "confusable_homoglyphs": version("confusable_homoglyphs"),
            "weights": {self._file.name: sha256_file(self._file)} if self._file else {},
            "known_error": None,
        }

    def detect(self, batch: Batch) -> Mapping[str, Sequence[Any]]:
        """See :class:`audit.detectors.Detector`; the images are not looked at."""
        prompts = [item.prompt for item in batch]
        counts = {
            name: one.score(prompts).astype(int).tolist() for name, one in self._lists.items()
        }
        found = ["; ".join(self._lists["folded"].found(prompt)) for prompt in prompts]
        return {**counts, "found": found}
