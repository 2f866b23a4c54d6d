"""What is wrong with a set of prompts: ours in the tests, a user's before images are paid for."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from .base import Prompt, article
from .languages import GENDERS, Language, homoglyphs, languages
from .scripts import letters_of, script_of, words

_ENGLISH_ONLY = frozenset({"the", "of", "with", "and", "who", "showing", "waiting", "reading"})
"""Words of English prompts that are hardly words of other languages written in Latin letters."""

_ALSO = {"nl": {"of"}, "da": {"and"}, "no": {"and"}, "sv": {"and"}}
"""Those that are: *or* in Dutch, the duck of Scandinavia."""

_INVISIBLE = re.compile(r"[\u0000-\u001f\u007f-\u009f\u00ad\u200b\u200e\u200f\u202a-\u202e"
                        r"\u2060-\u2069\ufeff]")  # fmt: skip
_JOINED = frozenset({"code_switched", "homoglyph"})
"""Arms that mix scripts on purpose."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        check: which rule found it.
        message: what is wrong and what to do, without quoting the whole text.
    """

    check: str
    id: str
    language: str
    message: str
    where: str = ""

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        return f"{place}{self.id} ({self.language}): {self.message}"


def lint(
    prompts: Iterable[Prompt],
    *,
    known: Mapping[str, Language] | None = None,
    complete: bool = True,
    gender: bool = False,
) -> list[Problem]:
    """Everything that is wrong with a set of prompts, in order of place.

    Checks: empty text; white space, invisible characters, unfilled braces; NFC; final punctuation
    that differs from most of the language; the same text under two ids, also but for case; letters
    of a script that the language is not written in; two scripts inside a word (homoglyphs); English
    left in another language; *a* before a vowel sound and *an* before a consonant; entries that
    a language lacks; a missing or impossible note of grammatical gender.

    Args:
        prompts: of any source; the tag ``arm`` sets variants of one prompt apart.
        known: languages by code; default: those of ``datasets/prompts/languages/languages.yaml``.
            A language that is not among them is not checked for its script.
        complete: whether every language should have every id (not so for captions).
        gender: whether prompts that ask for people must note their grammatical gender.
    """
    known = languages() if known is None else known
    prompts = list(prompts)
    found: list[Problem] = []
    for prompt in prompts:
        script = _script(prompt, known)
        checks = [_form(prompt), _articles(prompt), _english_left(prompt)]
        if prompt.tags.get("arm") not in _JOINED:
            checks.append(_script_problems(prompt, script))
        if gender:
            checks.append(_gender(prompt, known.get(prompt.language)))
        for check in checks:
            found += [
                Problem(name, prompt.id, prompt.language, message, prompt.where)
                for name, message in check
            ]
    variants: dict[tuple[str, str], list[Prompt]] = defaultdict(list)
    for prompt in prompts:
        variants[prompt.language, str(prompt.tags.get("arm", ""))].append(prompt)
    for group in variants.values():
        found += [*_collisions(group), *_endings(group)]
    if complete:
        found += _missing(variants)
    return found


def _form(prompt: Prompt) -> Iterator[tuple[str, str]]:
    text = prompt.text
    if not text.strip():
        yield "empty", "the text is empty"
        return
    if text != text.strip():
        yield "whitespace", "white space before or after the text; delete it"
    if re.search(r"\s{2}|[^\S ]", text.strip()):
        yield "whitespace", "white space other than single spaces inside the text"
    for character in sorted(set(_INVISIBLE.findall(text))):
        yield "invisible", f"the invisible character U+{ord(character):04X}; delete it"
    if "{" in text or "}" in text:
        yield "braces", "a brace: a template was not filled in"
    if not unicodedata.is_normalized("NFC", text):
        yield "nfc", "not in Unicode normal form NFC; the same text has other bytes elsewhere"


def _script(prompt: Prompt, known: Mapping[str, Language]) -> str | None:
    if prompt.tags.get("arm") == "romanised":
        return "Latin"
    return known[prompt.language].script if prompt.language in known else None


def _script_problems(prompt: Prompt, script: str | None) -> Iterator[tuple[str, str]]:
    if prompt.tags.get("arm") == "romanised" and not prompt.text.isascii():
        yield "romanised", "romanised text is plain ASCII letters"
    allowed = letters_of(script) if script else None
    for word in words(prompt.text):
        scripts = Counter(filter(None, map(script_of, word)))
        if len(scripts) > 1 and not set(scripts) <= letters_of("Japanese"):
            own = set(scripts) & (allowed or set()) or {scripts.most_common(1)[0][0]}
            yield "homoglyph", _stranger(word, own)
        elif allowed and not set(scripts) <= allowed:
            other = ", ".join(sorted(set(scripts) - allowed))
            yield "script", f"the word '{word}' is {other}, the language is written in {script}"


def _stranger(word: str, own: set[str]) -> str:
    strange = [c for c in dict.fromkeys(word) if script_of(c) not in (*own, None)]
    if len(strange) > 1:
        return f"'{''.join(strange)}' inside the {'/'.join(sorted(own))} word '{word}'"
    looks = (
        f", which looks like '{latin}'"
        for table in homoglyphs().values()
        for latin, look in table.items()
        if look == strange[0] and own == {"Latin"}
    )
    name = f"U+{ord(strange[0]):04X} {unicodedata.name(strange[0], 'unnamed')}"
    return f"{name}{next(looks, '')}, inside the {'/'.join(sorted(own))} word '{word}'"


def _english_left(prompt: Prompt) -> Iterator[tuple[str, str]]:
    if prompt.language == "en" or prompt.tags.get("arm") in _JOINED:
        return
    if prompt.english_text and prompt.text.casefold() == prompt.english_text.casefold():
        yield "english", "the text is the English one"
        return
    left = _ENGLISH_ONLY & {word.casefold() for word in words(prompt.text)}
    left -= _ALSO.get(prompt.language, set())
    if left:
        yield "english", f"English is left in it: {', '.join(sorted(left))}"


def _articles(prompt: Prompt) -> Iterator[tuple[str, str]]:
    if prompt.language != "en" and prompt.tags.get("arm") != "code_switched":
        return
    for match in re.finditer(r"\b(an?) ([^\W\d_][\w'’-]*)", prompt.text, re.IGNORECASE):
        right = article(match[2])
        if match[1].lower() != right and script_of(match[2][0]) == "Latin":
            yield "article", f"'{match[0]}' should be '{right} {match[2]}'"


def _gender(prompt: Prompt, language: Language | None) -> Iterator[tuple[str, str]]:
    gender = prompt.tags.get("gender", "")
    if prompt.tags.get("people", "none") == "none" or language is None or language.gender is None:
        return
    if gender not in GENDERS:
        yield "gender", f"its grammatical gender is not noted ({', '.join(GENDERS)})"
    elif not language.gender and gender != "none":
        yield "gender", f"{language.name} has no grammatical gender, yet '{gender}' is noted"
    elif language.gender and gender == "none" and prompt.tags["people"] == "one":
        yield "gender", f"{language.name} has grammatical gender, yet 'none' is noted for a person"


def _collisions(prompts: list[Prompt]) -> Iterator[Problem]:
    first: dict[str, Prompt] = {}
    for prompt in prompts:
        key = unicodedata.normalize("NFC", prompt.text).casefold().strip()
        other = first.setdefault(key, prompt)
        if other is prompt or not key:
            continue
        same = other.text == prompt.text
        what = "the same text as" if same else "but for case or white space the same text as"
        name = "duplicate id" if other.id == prompt.id else "collision"
        message = f"{what} '{other.id}'; one of them asks for something else"
        yield Problem(name, prompt.id, prompt.language, message, prompt.where)


def _endings(prompts: list[Prompt]) -> Iterator[Problem]:
    ends = [_end(prompt.text.rstrip()) for prompt in prompts]
    usual = Counter(ends).most_common(1)[0][0]
    for prompt, end in zip(prompts, ends, strict=True):
        if end != usual:
            shown, other = (f"with '{e}'" if e else "without punctuation" for e in (end, usual))
            message = f"ends {shown}, most of the language {other}"
            yield Problem("punctuation", prompt.id, prompt.language, message, prompt.where)


def _end(text: str) -> str:
    """The final punctuation mark; closing brackets and quotes are none."""
    mark = text[-1:]
    return mark if mark and mark not in "'\"" and unicodedata.category(mark) in ("Po", "Pd") else ""


def _missing(variants: Mapping[tuple[str, str], list[Prompt]]) -> Iterator[Problem]:
    """Entries that others have; arms that exist only where they make sense are left out."""
    whole = ("", "english", "translation", "rewording", "romanised")
    full = {key: {p.id for p in group} for key, group in variants.items() if key[1] in whole}
    every: dict[str, None] = {p.id: None for key in full for p in variants[key]}
    for (language, arm), ids in full.items():
        for name in every:
            if name not in ids:
                what = f"missing in the arm '{arm}'" if arm else "missing"
                yield Problem("missing", name, language, what)
