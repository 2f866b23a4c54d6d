"""The same content in many languages, and what a person may type instead of it.

Arms, of which each changes one thing about the English prompt or its translation:

- ``english``: the prompt that all others are paired with.
- ``rewording``: other English words for the same; the control for paraphrase.
- ``translation``: the prompt as it is said in the language.
- ``gender_fair``: the translation with a wording for all genders, where the usual one is gendered.
- ``romanised``: the translation in Latin letters, as typed without the language's keyboard.
- ``code_switched``: the English prompt with its noun in the other language.
- ``homoglyph``: the English prompt with one Latin letter replaced by one of another script that
  looks the same (Struppek et al. 2023).
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from audit.errors import AuditError
from audit.plugins import did_you_mean
from audit.suites import datasets

from .base import Prompt, article
from .reading import rows, text_of

ARMS = (
    "english",
    "rewording",
    "translation",
    "gender_fair",
    "romanised",
    "code_switched",
    "homoglyph",
)
GENDERS = ("masculine", "feminine", "common", "none")


@dataclass(frozen=True)
class Language:
    """How a language is written.

    Attributes:
        gender: whether grammar marks people as masculine or feminine; ``None``: not recorded.
        spaces: whether spaces set words apart.
        romanisation: the rule that the column ``romanised`` follows; empty: there is none.
    """

    code: str
    name: str
    script: str
    gender: bool | None = None
    spaces: bool = True
    romanisation: str = ""


@dataclass(frozen=True)
class Entry:
    """One content, in English.

    Attributes:
        people: ``none``, ``one`` or ``several`` people are asked for.
        noun: the word of `text` that code-switching replaces.
    """

    id: str
    group: str
    people: str
    text: str
    rewording: str
    noun: str
    where: str


@dataclass(frozen=True)
class Translation:
    """The same in another language.

    Attributes:
        gender: of the wording used: ``masculine`` or ``feminine`` where it is so in grammar,
            ``common`` where it is said of everyone alike, ``none`` where the language or the
            content has none to give.
        gender_fair: a wording for all genders; empty where `text` is one or none is at hand.
    """

    text: str
    noun: str
    gender: str
    gender_fair: str
    romanised: str
    note: str
    where: str


@dataclass(frozen=True)
class Parallel:
    """Entries with their translations: language code → entry's id → translation."""

    languages: Mapping[str, Language]
    entries: Mapping[str, Entry]
    translations: Mapping[str, Mapping[str, Translation]]

    def prompts(
        self,
        languages: Sequence[str] | None = None,
        arms: Sequence[str] = ("english", "translation"),
        *,
        groups: Sequence[str] | None = None,
        homoglyph_script: str = "Cyrillic",
        seed: int = 0,
    ) -> Iterator[Prompt]:
        """The prompts of the arms, entry by entry, those of one entry together.

        The tags are ``arm``, ``script`` (as written in this arm), ``gender`` and ``people``; the
        romanised and code-switched arms keep the code of their language. An entry has no prompt in
        an arm that would repeat its translation or the English one.

        Args:
            languages: codes besides English; ``None``: all.
            groups: of the entries: occupation, person, scene, object; ``None``: all.
            seed: chooses the letter that the homoglyph arm replaces.

        Raises:
            AuditError: a language or an arm is unknown.
        """
        wanted = list(self.translations if languages is None else languages)
        for name, known in ((n, list(self.translations)) for n in wanted if n != "en"):
            _check("language", name, known)
        for name in arms:
            _check("arm", name, ARMS)
        for entry in self.entries.values():
            if groups is not None and entry.group not in groups:
                continue
            if "english" in arms:
                yield self._english(entry, "english", entry.text)
            if "rewording" in arms:
                yield self._english(entry, "rewording", entry.rewording)
            if "homoglyph" in arms:
                text = homoglyph(entry.text, homoglyph_script, seed)
                if text:
                    yield self._english(entry, "homoglyph", text, f"Latin+{homoglyph_script}")
            for code in wanted:
                if code != "en" and entry.id in self.translations[code]:
                    yield from self._translated(entry, code, arms)

    def _english(self, entry: Entry, arm: str, text: str, script: str = "Latin") -> Prompt:
        tags = {"arm": arm, "script": script, "gender": "none", "people": entry.people}
        return Prompt(entry.id, text, "en", entry.text, entry.group, tags, entry.where)

    def _translated(self, entry: Entry, code: str, arms: Sequence[str]) -> Iterator[Prompt]:
        language, said = self.languages[code], self.translations[code][entry.id]
        switched = code_switched(entry.text, entry.noun, said.noun)
        script = language.script
        mixed = script if script == "Latin" else f"Latin+{script}"
        for arm, text, written, gender in (
            ("translation", said.text, script, said.gender),
            ("gender_fair", said.gender_fair, script, "common"),
            ("romanised", said.romanised, "Latin", said.gender),
            ("code_switched", switched, mixed, said.gender),
        ):
            if arm in arms and text and text.casefold() != entry.text.casefold():
                tags = {"arm": arm, "script": written, "gender": gender, "people": entry.people}
                yield Prompt(entry.id, text, code, entry.text, entry.group, tags, said.where)


def code_switched(text: str, noun: str, replacement: str) -> str:
    """`text` with its noun replaced, the article before it corrected.

    >>> code_switched("a photo of an engineer", "engineer", "Ingenieurin")
    'a photo of an Ingenieurin'
    >>> code_switched("a photo of a doctor", "doctor", "Arzt")
    'a photo of an Arzt'
    """
    found = re.compile(rf"(?:\b(an?) )?\b{re.escape(noun)}\b")

    def with_article(match: re.Match[str]) -> str:
        return f"{article(replacement)} {replacement}" if match[1] else replacement

    return found.sub(with_article, text, count=1)


@cache
def homoglyphs() -> dict[str, dict[str, str]]:
    """Script → Latin letter → the letter of that script that looks the same."""
    table: dict[str, dict[str, str]] = {}
    path = datasets() / "prompts/languages/homoglyphs.csv"
    for _, row in rows(path, ["latin", "script", "homoglyph"], filled=["latin", "homoglyph"]):
        table.setdefault(row["script"], {})[row["latin"]] = row["homoglyph"]
    return table


def homoglyph(text: str, script: str = "Cyrillic", seed: int = 0) -> str:
    """`text` with one letter replaced by its look-alike of `script`; empty if it has none.

    The letter is drawn by `seed` and the text, so that it is the same in every run.

    >>> [letter.isascii() for letter in homoglyph("a cat")]
    [False, True, True, True, True]
    """
    table = homoglyphs()
    _check("script", script, list(table))
    places = [index for index, letter in enumerate(text) if letter in table[script]]
    if not places:
        return ""
    place = random.Random(f"{seed}:{script}:{text}").choice(places)
    return text[:place] + table[script][text[place]] + text[place + 1 :]


@cache
def languages() -> dict[str, Language]:
    """What is known of each language, by code."""
    content = yaml.safe_load(text_of(datasets() / "prompts/languages/languages.yaml"))
    return {code: Language(code, **known) for code, known in content.items()}


def parallel(folder: Path | None = None) -> Parallel:
    """The shipped parallel prompts, or those of a folder of the same form.

    A folder has ``en.csv`` (id, group, people, text, rewording, noun) and a ``CODE.csv`` for each
    further language (id, text, noun, gender; gender_fair, romanised and note where there are any).
    Missing entries are no error here: :func:`audit.prompts.lint` reports them.

    Raises:
        AuditError: a file is missing or wrong; with its line.
    """
    folder = folder or datasets() / "prompts/languages"
    entries: dict[str, Entry] = {}
    columns = ["id", "group", "people", "text", "rewording", "noun"]
    for where, row in rows(folder / "en.csv", columns, filled=columns):
        if row["id"] in entries:
            raise AuditError(f"{where}: '{row['id']}' is there already")
        if row["people"] not in ("none", "one", "several"):
            raise AuditError(f"{where}: people must be none, one or several, not '{row['people']}'")
        if len(re.findall(rf"\b{re.escape(row['noun'])}\b", row["text"])) != 1:
            raise AuditError(f"{where}: the noun '{row['noun']}' must be in the text once")
        entries[row["id"]] = Entry(**{column: row[column] for column in columns}, where=where)
    known = dict(languages())
    translations: dict[str, dict[str, Translation]] = {}
    files = {path.stem: path for path in folder.glob("*.csv") if path.stem != "homoglyphs"}
    files.pop("en")
    for code, path in sorted(files.items(), key=lambda item: _order(item[0])):
        if code not in known:
            raise AuditError(f"{path}: no language '{code}'{did_you_mean(code, known)}")
        translations[code] = _translations(path, entries)
    return Parallel({code: known[code] for code in ("en", *translations)}, entries, translations)


def _translations(path: Path, entries: Mapping[str, Entry]) -> dict[str, Translation]:
    found: dict[str, Translation] = {}
    for where, row in rows(path, ["id", "text", "noun", "gender"], filled=["id", "text", "noun"]):
        if row["id"] not in entries:
            raise AuditError(f"{where}: en.csv has no '{row['id']}'")
        if row["id"] in found:
            raise AuditError(
                f"{where}: '{row['id']}' is there already, at {found[row['id']].where}"
            )
        if row["gender"] and row["gender"] not in GENDERS:
            raise AuditError(
                f"{where}: gender must be {', '.join(GENDERS)} or empty, not '{row['gender']}'"
            )
        found[row["id"]] = Translation(
            **{column: row[column] for column in ("text", "noun", "gender")},
            **{column: row.get(column, "") for column in ("gender_fair", "romanised", "note")},
            where=where,
        )
    return found


def _order(code: str) -> tuple[int, str]:
    """As languages.yaml lists them; unknown ones last, where they are refused."""
    codes = list(languages())
    return (codes.index(code) if code in codes else len(codes), code)


def _check(what: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        raise AuditError(
            f"no {what} '{name}'{did_you_mean(name, known)}; there are: {', '.join(known)}"
        )
