"""What the section ``languages`` of a suite asks for, checked and read as prompts.

The prompts are, in this order of choice:

- ``prompts: {key: {language: text}}``, written out;
- ``outside: {suite: NAME, path: FILE, contents: N}``: an outside suite, at most N of its contents;
- ``folder: FOLDER``: parallel prompts of a user, in the form of ``datasets/prompts/languages``;
- else those parallel prompts that we ship, of the ``languages``, ``arms`` and ``groups`` named.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from audit.errors import AuditError
from audit.plugins import did_you_mean

from .base import Prompt
from .languages import ARMS, homoglyph, languages, parallel
from .scripts import script_of

ENGLISH = "en"
SOURCES = ("prompts", "outside", "folder")
CHOICES = ("languages", "arms", "groups")
PEOPLE = ("none", "one", "several")


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


def _mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


KEYS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "reference": (_text, "the code of the language that the others are compared with"),
    "margin": (_number, "a number from 0: the loss of alignment that does not count"),
    "attribute": (_text, "the attribute whose labels are the keys of the prompts"),
    "attributes": (_texts, "a list of attributes whose shares may shift"),
    "no_person": (_mapping, "a mapping of attribute and label"),
    "people": (lambda value: value in PEOPLE, f"one of {', '.join(PEOPLE)}"),
    "prompts": (_mapping, "a mapping of key to language to text"),
    "outside": (_mapping, "a mapping of suite and path"),
    "folder": (_text, "a folder with en.csv"),
    "languages": (_texts, "a list of language codes ('no' in quotes)"),
    "arms": (_texts, f"a list of {', '.join(ARMS)}"),
    "groups": (_texts, "a list of groups"),
}
OUTSIDE: dict[str, tuple[Callable[[Any], bool], str]] = {
    "suite": (_text, "the name of an outside suite"),
    "path": (_text, "its file or folder"),
    "contents": (
        lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= 1,
        "a whole number from 1",
    ),
}
NO_PERSON: dict[str, tuple[Callable[[Any], bool], str]] = {
    "attribute": (_text, "the name of an attribute"),
    "label": (_text, "the label that says that nobody is there"),
}


def section_of(
    suite: Mapping[str, Any], options: Mapping[str, Any], name: str = "suite"
) -> dict[str, Any]:
    """The suite's section with the spec's options over it, checked.

    Args:
        suite: the section ``languages``; empty where the suite has none.
        options: of the spec, ``probes: {languages: {…}}``. One that names other prompts takes the
            place of the suite's prompts, and of what the suite chose among them.
        name: of the suite, for the messages.

    Raises:
        AuditError: a key is unknown, or a value is of the wrong kind.
    """
    for given, where in ((suite, f"suite {name}: languages"), (options, "probes: languages")):
        _check(given, KEYS, where)
        for key, keys in (("outside", OUTSIDE), ("no_person", NO_PERSON)):
            if key in given:
                _check(given[key], keys, f"{where}: {key}")
                _complete(given[key], keys, f"{where}: {key}")
    kept = dict(suite)
    if any(source in options for source in SOURCES):
        dropped = (*SOURCES, *CHOICES, "people")
        kept = {key: value for key, value in suite.items() if key not in dropped}
    return {**kept, **options}


def prompts_of(section: Mapping[str, Any]) -> list[Prompt]:
    """The prompts of a checked section, those of one content together, the English one first.

    ``id`` is the content's: all prompts of one English text share it. The tags are ``arm``,
    ``script``, ``gender`` and ``people``, empty where nobody has noted them. The English prompt is
    there whether its arm is named or not: the others are paired with it.

    Raises:
        AuditError: a file is wrong, a language or an arm is not there, or nothing is left to
            compare.
    """
    if not any(key in section for key in (*SOURCES, *CHOICES)):
        return []
    found: dict[str, dict[tuple[str, ...], Prompt]] = {}
    contents: dict[str, str] = {}
    reference = _reference(section)
    for prompt in _read(section):
        content = prompt.id
        if "outside" in section:  # captions and forms of one content have ids of their own
            content = contents.setdefault(prompt.english_text, prompt.id)
        if content not in found:
            first = replace(prompt, id=content, text=prompt.english_text, language=reference)
            tags = _tags(first, arm="english", script=_script(first), gender="none")
            found[content] = {("english",): replace(first, tags=tags)}
        kept = found[content]
        if prompt.tags["arm"] != "english":
            key = (prompt.language, str(prompt.tags["arm"]), prompt.text)
            kept.setdefault(key, replace(prompt, id=content))
    if all(len(prompts) == 1 for prompts in found.values()):
        raise AuditError(
            "languages: there is nothing beside English to compare it with; name other languages, "
            "or an arm that needs none, such as arms: [homoglyph]"
        )
    return [prompt for prompts in found.values() for prompt in prompts.values()]


def _reference(section: Mapping[str, Any]) -> str:
    return str(section.get("reference", ENGLISH)) if "prompts" in section else ENGLISH


def _read(section: Mapping[str, Any]) -> Iterator[Prompt]:
    if "prompts" in section or "outside" in section:
        read = _written_out(section) if "prompts" in section else _outside(section["outside"])
        yield from _chosen(list(read), section)
        return
    folder = Path(section["folder"]).expanduser() if "folder" in section else None
    wanted = parallel(folder)
    groups = section.get("groups")
    known = dict.fromkeys(entry.group for entry in wanted.entries.values())
    _among("group", groups or [], list(known))
    arms = section.get("arms", ["english", "translation"])
    yield from wanted.prompts(section.get("languages"), arms, groups=groups)


def _written_out(section: Mapping[str, Any]) -> Iterator[Prompt]:
    reference = _reference(section)
    for key, texts in section["prompts"].items():
        if not isinstance(texts, Mapping) or not all(_text(text) for text in texts.values()):
            raise AuditError(f"languages: prompts: '{key}' must be a mapping of language to text")
        if reference not in texts:
            raise AuditError(
                f"languages: prompts: '{key}' has no text in '{reference}', the reference"
            )
        for language, text in texts.items():
            arm = "english" if language == reference else "translation"
            tags = {"arm": arm, "people": str(section.get("people", ""))}
            yield Prompt(str(key), text, str(language), texts[reference], tags=tags)


def _outside(given: Mapping[str, Any]) -> Iterator[Prompt]:
    from audit.outside_suites import load

    prompts = load(given["suite"], Path(given["path"]).expanduser())
    texts = list(dict.fromkeys(prompt.english_text for prompt in prompts))
    most = given.get("contents", len(texts))
    # The same contents in every run: drawn, for files are often sorted.
    kept = set(random.Random(0).sample(texts, most) if most < len(texts) else texts)
    for prompt in prompts:
        if prompt.english_text not in kept:
            continue
        arm = "translation"
        if prompt.language == ENGLISH:
            # Another English caption of the same picture says it in other words.
            arm = "english" if prompt.text == prompt.english_text else "rewording"
        elif prompt.tags.get("form") == "star":
            arm = "gender_fair"
        yield replace(prompt, tags={"arm": arm})


def _chosen(prompts: list[Prompt], section: Mapping[str, Any]) -> Iterator[Prompt]:
    """Those of the languages, arms and groups named, the homoglyph arm made by rule."""
    wanted = section.get("languages")
    arms = section.get("arms")
    groups = section.get("groups")
    spoken = dict.fromkeys(prompt.language for prompt in prompts)
    held = {str(prompt.tags["arm"]) for prompt in prompts} | {"homoglyph"}
    there = [arm for arm in ARMS if arm in held]
    _among("language", wanted or [], list(spoken))
    _among("arm", arms or [], there)
    _among("group", groups or [], list(dict.fromkeys(prompt.group for prompt in prompts)))
    reference = _reference(section)
    for prompt in prompts:
        arm = str(prompt.tags["arm"])
        if groups is not None and prompt.group not in groups:
            continue
        if arm == "english":
            yield replace(prompt, tags=_tags(prompt, gender="none"))
            look = homoglyph(prompt.text) if arms and "homoglyph" in arms else ""
            if look:
                tags = _tags(prompt, arm="homoglyph", script="Latin+Cyrillic", gender="none")
                yield replace(prompt, text=look, tags=tags)
            continue
        if wanted is not None and prompt.language not in (*wanted, reference):
            continue
        if arms is None or arm in arms:
            yield replace(prompt, tags=_tags(prompt))


def _tags(prompt: Prompt, **known: str) -> dict[str, str | int | float | bool]:
    own = {
        "arm": prompt.tags.get("arm", ""),
        "script": prompt.tags.get("script") or _script(prompt),
        "gender": prompt.tags.get("gender", ""),
        "people": prompt.tags.get("people", ""),
    }
    return {**own, **known}


def _script(prompt: Prompt) -> str:
    if prompt.language in languages():
        return languages()[prompt.language].script
    letters = Counter(filter(None, map(script_of, prompt.text)))
    return letters.most_common(1)[0][0] if letters else ""


def _check(given: Any, keys: Mapping[str, tuple[Callable[[Any], bool], str]], where: str) -> None:
    if not isinstance(given, Mapping):
        raise AuditError(f"{where}: a mapping of {', '.join(keys)} is expected")
    for key, value in given.items():
        if key not in keys:
            raise AuditError(
                f"{where}: unknown key '{key}'{did_you_mean(str(key), keys)}; "
                f"there are: {', '.join(keys)}"
            )
        right, what = keys[key]
        if not right(value):
            raise AuditError(f"{where}: {key} must be {what}, not {value!r:.60}")


def _complete(given: Any, keys: Mapping[str, Any], where: str) -> None:
    for key in list(keys)[:2]:
        if key not in given:
            raise AuditError(f"{where}: '{key}' is missing: {keys[key][1]}")


def _among(what: str, wanted: list[str], known: list[str]) -> None:
    for name in wanted:
        if name not in known and not (what == "language" and name == ENGLISH):
            raise AuditError(
                f"languages: no {what} '{name}'{did_you_mean(name, known)}; "
                f"there are: {', '.join(known)}"
            )
