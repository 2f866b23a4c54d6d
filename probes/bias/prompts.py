"""Which images are asked for: every subject in its wordings, then with each identity inserted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from audit.detector_error import DetectorError
from audit.errors import AuditError
from audit.label_files import read_labels
from audit.plan import Use
from audit.prompts import demographics
from audit.study import Study

from .settings import Settings, path_of

MAIN = "main"
"""The template of an explicit prompt's own text."""


def uses(study: Study, settings: Settings) -> Iterator[Use]:
    """Every prompt with the same seeds.

    An image of an inserted identity is held against the text of its base prompt: the yardstick may
    not change with what is measured.

    Raises:
        AuditError: a file that the analysis will read is not there or is none, or a user's
            reference names no subject: said before an image is made.
    """
    _read_files(study, settings)
    for text, base, tags in _asked(settings):
        for index in range(settings.images(study, tags["arm"])):
            yield Use(study.request(text, index), base, {**tags, "index": index})


def _read_files(study: Study, settings: Settings) -> None:
    section, declared = settings.section, study.suite.section("attributes")
    if section.get("detector_error"):
        DetectorError.load(path_of(section["detector_error"]))
    if section.get("labels"):
        labels = {name: [str(x) for x in about["labels"]] for name, about in declared.items()}
        read_labels(path_of(section["labels"]), labels)
    held = settings.reference
    if held is not None and str(section["reference"]).endswith(".csv"):
        subjects = sorted({str(tags["subject"]) for *_, tags in _asked(settings)})
        if not set(subjects) & set(held.shares):
            raise AuditError(
                f"{section['reference']}: no id is a subject that is asked for, such as "
                f"{', '.join(subjects[:3])}"
            )


def _asked(settings: Settings) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Prompt, text it is held against, tags."""
    if settings.section.get("prompts"):
        for subject, entry in settings.section["prompts"].items():
            yield from _explicit(str(subject), entry)
    elif settings.section.get("groups"):
        yield from _composed(settings)


def _explicit(subject: str, entry: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    known = {"text", "group", "coded", "people", "wordings", "identities", "reference_name"}
    for key in entry:
        if key not in known and not key.startswith("share_"):
            raise AuditError(f"demographics: prompts: {subject}: unknown key '{key}'")
    common = {
        "subject": subject,
        "group": str(entry.get("group", "occupation")),
        "template": MAIN,
        "identity": "",
        "dimension": "",
        "coded": str(entry.get("coded", "")),
        "people": str(entry.get("people", "one")),
        "arm": "base",
    }
    base = str(entry["text"])
    yield base, base, common
    for template, text in (entry.get("wordings") or {}).items():
        yield str(text), str(text), {**common, "template": str(template), "arm": "wording"}
    for identity, about in (entry.get("identities") or {}).items():
        said = {"identity": str(identity), "dimension": str(about["dimension"]), "arm": "identity"}
        yield str(about["text"]), base, {**common, **said}


def _composed(settings: Settings) -> Iterator[tuple[str, str, dict[str, Any]]]:
    section = settings.section
    folder = section.get("vocabulary")
    vocabulary = demographics(path_of(folder) if folder else None)
    images = section.get("images")
    # Wordings with as many images as the first one have a share of their own.
    even = not isinstance(images, Mapping) or images.get("wording") in (None, images.get("base"))
    first: dict[str, str] = {}
    base: dict[tuple[str, str], str] = {}
    for prompt in vocabulary.prompts(
        [str(group) for group in section["groups"]],
        subjects=[str(name) for name in section["subjects"]] if "subjects" in section else None,
        templates=[str(name) for name in section["templates"]] if "templates" in section else None,
        identities=[str(name) for name in section.get("identities", [])],
    ):
        subject, template = str(prompt.tags["subject"]), str(prompt.tags["template"])
        first.setdefault(subject, template)
        if not prompt.tags["identity"]:
            base[subject, template] = prompt.text
            arm = "base" if even or first[subject] == template else "wording"
        elif first[subject] == template:
            arm = "identity"
        else:
            continue  # identities go into the first wording
        yield (
            prompt.text,
            base[subject, template],
            {**prompt.tags, "group": prompt.group, "arm": arm},
        )
