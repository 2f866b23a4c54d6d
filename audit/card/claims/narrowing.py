"""Which findings a sentence speaks of: its language, subject, filter, duplicates and the like."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

from audit.findings import Finding


@dataclass
class Part:
    """The findings that are left, what they were narrowed to, and why none is."""

    findings: list[Finding]
    words: list[str] = field(default_factory=list)
    inverse: bool = False
    missing: str = ""


def narrow(column: str, text: str, part: Part) -> Part:
    """Keep the findings that `text` speaks of, by one of the columns of a kind."""
    return part if part.missing else _BY[column](text, part)


@cache
def language_names() -> dict[str, str]:
    """English name → code of every language that the shipped prompts know, but English."""
    from audit.prompts.languages import languages

    return {about.name: code for code, about in languages().items() if code != "en"}


def _language(text: str, part: Part) -> Part:
    named = {name: code for name, code in language_names().items() if _word(name, text)}
    # The names count before the runs: a language that was not asked has no finding.
    return _values(part, "language", {code: name for name, code in named.items()}, "language")


def _subject(text: str, part: Part) -> Part:
    keys = ("subject", "occupation")
    known = {str(f.slice[key]) for f in part.findings for key in keys if key in f.slice}
    # “head cook” is named where “cook” is; the longest name counts.
    named = [name for name in known if _word(name, text)]
    named = [name for name in named if not any(name != other and name in other for other in named)]
    if named:
        kept = [f for f in part.findings if any(f.slice.get(key) in named for key in keys)]
        return Part(kept, [*part.words, *sorted(named)], part.inverse)
    return part


def _share_subject(text: str, part: Part) -> Part:
    """A share is that of a subject, or of all people where the sentence speaks of all."""
    found = _subject(text, part)
    if found.words != part.words:
        return found
    if not re.search(r"\b(people|persons?|humans?|portraits?|overall|on average)\b", text, re.I):
        return Part([], missing="it names no subject that this run has drawn")
    return Part([f for f in part.findings if not f.slice], [*part.words, "all"], part.inverse)


_WORDS = {
    "female_presenting": (r"gender|sex(?:es)?|wom[ae]n|females?", r"m[ae]n|males?|masculine"),
    "gender": (r"gender|sex(?:es)?|wom[ae]n|females?", r"m[ae]n|males?|masculine"),
    "dark_skin": (r"skin|rac(?:e|ial)|ethnic\w*|dark\w*|black", r"light\w*|white|pale"),
    "skin": (r"skin|rac(?:e|ial)|ethnic\w*|dark\w*|black", r"light\w*|white|pale"),
}
"""Attribute → words of it, and words of its complement."""

_FAMILY = re.compile(r"^(share|mean_deviation|amplification|total_variation|diversity)_(.+)$")


def _attribute(text: str, part: Part) -> Part:
    said: dict[str, bool] = {}
    for finding in part.findings:
        match = _FAMILY.match(finding.metric)
        name = match[2] if match else ""
        mine, other = _WORDS.get(name, (re.escape(name.replace("_", " ")), ""))
        here = bool(re.search(rf"\b(?:{mine})\b", text, re.I))
        there = bool(other and re.search(rf"\b(?:{other})\b", text, re.I))
        if name and (here or there):
            said[name] = there and not here
    if not said:
        return part
    kept = [f for f in part.findings if (m := _FAMILY.match(f.metric)) and m[2] in said]
    words = [name.replace("_", " ") for name in said]
    return Part(kept, [*part.words, *words], any(said.values()))


def _filter(text: str, part: Part) -> Part:
    known = {str(f.slice["filter"]) for f in part.findings if "filter" in f.slice}
    named = {name: name for name in known if _word(name.replace("-", " "), text.replace("-", " "))}
    if re.search(r"safety[- ](?:checker|module|filter)", text, re.I):
        named["safety-checker"] = "safety-checker"
    if not named:
        # Of “the filter” of a model: the one that comes with it, else what was deployed.
        own = [name for name in ("safety-checker", "deployed") if name in known]
        named = {name: name for name in own[:1]}
    return _values(part, "filter", named, "filter")


def _duplicates(text: str, part: Part) -> Part:
    trained = [f for f in part.findings if f.slice.get("duplicates") != 0]
    counted = [f for f in trained if _count(f) is not None]
    times = re.search(r"(\d[\d,]*)\s*(?:times|copies|duplicates)", text, re.I)
    if re.search(r"\b(once|unique|single)\b|\b(?:not|never|un)[- ]?duplicated", text, re.I):
        kept, words = [f for f in counted if _count(f) == 1], "trained on once"
    elif times and (least := int(times[1].replace(",", ""))):
        kept = [f for f in counted if (_count(f) or 0) >= least]
        words = f"trained on {least:,} times or more"
    elif re.search(r"duplicat|repeated|many (?:copies|times)|often", text, re.I):
        kept, words = [f for f in counted if (_count(f) or 0) >= 2], "duplicated"
    else:
        return Part(trained, part.words, part.inverse)
    if not kept:
        return Part([], missing=f"no finding of images {words}")
    return Part(kept, [*part.words, words], part.inverse)


def _codec(text: str, part: Part) -> Part:
    known = {str(f.slice["codec"]) for f in part.findings if "codec" in f.slice}
    return _values(part, "codec", {name: name for name in known if _word(name, text)}, "codec")


def _composition(text: str, part: Part) -> Part:
    stems = {"binding": "binding", "counting": "count", "spatial": "spatial"}
    said = [kind for kind, stem in stems.items() if _word(stem, text, start=True)]
    if not said:
        return part
    kept = [f for f in part.findings if f.metric.removesuffix("_accuracy") in said]
    return Part(kept, [*part.words, *said], part.inverse)


def _clean(text: str, part: Part) -> Part:
    kept = [f for f in part.findings if f.slice.get("delivery") == "clean"]
    return Part(kept, part.words, part.inverse)


def _edit(text: str, part: Part) -> Part:
    edits = {f.metric.removeprefix("true_positive_rate_") for f in part.findings}
    said = {e for e in edits if _word(re.sub(r"[\d_].*", "", e), text, start=True)}
    if not said:
        return part
    kept = [f for f in part.findings if f.metric.removeprefix("true_positive_rate_") in said]
    return Part(kept, [*part.words, *sorted(said)], part.inverse)


_BY: dict[str, Callable[[str, Part], Part]] = {
    "language": _language,
    "subject": _subject,
    "share-subject": _share_subject,
    "attribute": _attribute,
    "filter": _filter,
    "duplicates": _duplicates,
    "codec": _codec,
    "clean": _clean,
    "composition": _composition,
    "edit": _edit,
}


def _values(part: Part, column: str, named: dict[str, str], what: str) -> Part:
    """Keep the named values of a column, if any is named."""
    if not named:
        return part
    kept = [f for f in part.findings if f.slice.get(column) in named]
    there = {f.slice[column] for f in kept}
    if not kept:
        return Part(
            [], missing=f"this run has no finding of the {what} {', '.join(sorted(named.values()))}"
        )
    words = [name if value in there else f"{name} (no finding)" for value, name in named.items()]
    return Part(kept, [*part.words, *words], part.inverse)


def _count(finding: Finding) -> int | None:
    value = finding.slice.get("duplicates")
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _word(name: str, text: str, *, start: bool = False) -> bool:
    ending = "" if start else r"(?:s|es)?\b"
    return bool(name) and bool(re.search(rf"\b{re.escape(name)}{ending}", text, re.IGNORECASE))
