"""A suite from the table of a folder of images: its own prompts, sorted to the probes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from audit import suites
from audit.errors import AuditError
from audit.suites import Suite

from .folder import Row, find_table, read_table

REFERENCE = "en"
"""The language that the others are compared with, and that demographics are read in."""
MARGIN = 0.02
"""Loss of alignment (cosine) that does not count, as in the shipped suites."""


def suite_from_folder(folder: Path, table: str = "", base: Suite | None = None) -> Suite:
    """The suite of :func:`suite_from_table` for ``images:FOLDER``."""
    path = find_table(folder, table)
    return suite_from_table(path, read_table(path, folder), base)


def suite_from_table(path: Path, rows: Sequence[Row], base: Suite | None = None) -> Suite:
    """The prompts of a table as a suite.

    ``demographics`` holds each occupation (or group) with its English prompt; ``languages`` each
    prompt_id with its prompt in every language. Attributes, reference shares of occupations of the
    same name, and the detectors' options are those of `base`.

    Args:
        path: the table, for the messages.
        rows: its rows.
        base: a suite with the attributes to look for; default: ``general``.

    Raises:
        AuditError: the table names no occupation, group or language, or contradicts itself.
    """
    base = base or suites.load("general")
    occupations = _occupations(rows, base.section("demographics").get("prompts") or {})
    languages = _languages(path, rows)
    if not occupations and not languages:
        raise AuditError(
            f"{path} says of no image what its prompt names: add a column occupation (or group), "
            "or language and prompt_id, or give prompts by --suite FILE"
        )
    content = {
        name: base.content[name]
        for name in ("attributes", "detectors", "phantom")
        if name in base.content
    }
    if occupations:
        wanted = base.section("demographics").get("attributes") or ["gender"]
        content["demographics"] = {"attributes": list(wanted), "prompts": occupations}
    if languages:
        section: dict[str, Any] = {
            "reference": REFERENCE,
            "margin": MARGIN,
            "prompts": languages,
        }
        known = (base.section("attributes").get("occupation") or {}).get("labels", {})
        if set(languages) <= set(known):
            section["attribute"] = "occupation"
        content["languages"] = section
    # Whether a mark is on them can be asked of any images.
    content["watermarks"] = {"prompts": list(dict.fromkeys(row.prompt for row in rows))}
    return Suite(path.stem, f"The prompts of {path.name}, images made elsewhere.", content)


def _occupations(
    rows: Sequence[Row], references: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    prompts: dict[str, list[str]] = {}
    for row in rows:
        name = row.text("occupation") or row.text("group")
        if name and row.text("language") in ("", REFERENCE):
            listed = prompts.setdefault(name, [])
            if row.prompt not in listed:
                listed.append(row.prompt)
    entries = {}
    for name, listed in prompts.items():
        for prompt in listed:
            # A slice is one prompt: two wordings of one occupation stand side by side.
            key = name if len(listed) == 1 else f"{name}: {prompt}"
            known = references.get(name, {}).items()
            kept = {k: v for k, v in known if k.startswith("share_") or k == "reference_name"}
            entries[key] = {**kept, "text": prompt}
    return entries


def _languages(path: Path, rows: Sequence[Row]) -> dict[str, dict[str, str]]:
    prompts: dict[str, dict[str, str]] = {}
    lines: dict[str, int] = {}
    for row in rows:
        language, name = row.text("language"), row.text("prompt_id")
        if not name:
            if language not in ("", REFERENCE):
                raise AuditError(
                    f"{path}:{row.line}: language {language} without prompt_id, the name that the "
                    "translations of a prompt share"
                )
            continue
        if not language:
            raise AuditError(f"{path}:{row.line}: prompt_id '{name}' without language")
        lines.setdefault(name, row.line)
        known = prompts.setdefault(name, {})
        if known.setdefault(language, row.prompt) != row.prompt:
            raise AuditError(
                f"{path}:{row.line}: prompt_id '{name}' has two prompts in {language}: "
                f"'{known[language]}' and '{row.prompt}'"
            )
    for name, known in prompts.items():
        if REFERENCE not in known:
            raise AuditError(
                f"{path}:{lines[name]}: prompt_id '{name}' has no prompt in {REFERENCE}, "
                "with which the others are compared"
            )
    # A prompt in one language alone is compared with nothing.
    return prompts if any(len(known) > 1 for known in prompts.values()) else {}
