"""What a run says of itself, as the study that its analysis needs: no model is loaded.

The run may come from a stranger: its settings are checked like a user's, and whatever files they
name are left alone unless the caller allows it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import suites
from .errors import AuditError
from .spec import Spec
from .store import Run
from .study import Study
from .suites import Suite

FILE = "suite.json"
"""The suite of a run, as it was when the run was made."""
MAX_BYTES = 64 * 2**20


def keep_suite(run: Run, suite: Suite) -> None:
    """Write a run's suite into it, so that it can be analysed again anywhere."""
    content = _plain(suite.content)
    run.write_json(FILE, {"name": suite.name, "about": suite.about, "content": content})


def _plain(value: Any) -> Any:
    """JSON-ready; keys as text, as every reader of a suite takes them: YAML's `yes` is True."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, bool | int | float) else str(value)


def spec_of(run: Run) -> Spec:
    """The settings that a run was made with.

    Raises:
        AuditError: run.json is damaged.
    """
    known = {field.name for field in dataclasses.fields(Spec)}
    given = run.info.get("spec") or {}
    try:
        spec = {name: value for name, value in given.items() if name in known}
        for name in ("gates", "devices"):
            spec[name] = tuple(spec.get(name) or ())
        return Spec().replace(**spec)
    except (TypeError, ValueError, AttributeError, AuditError) as error:
        raise AuditError(f"{run.path / 'run.json'}: spec is damaged: {error}") from error


def suite_of(run: Run, *, outside: bool = False) -> Suite:
    """The suite of a run: the one that it holds, else the shipped one of its name.

    Args:
        outside: else also the file that its settings name.

    Raises:
        AuditError: there is none, or it is damaged.
    """
    path = run.path / FILE
    if path.is_file():
        if path.stat().st_size > MAX_BYTES:
            raise AuditError(f"{path} has more than {MAX_BYTES:,} bytes")
        kept = run.read_json(FILE)
        content = kept.get("content") if isinstance(kept, dict) else None
        if not isinstance(content, dict) or not all(
            section is None or isinstance(section, dict) for section in content.values()
        ):
            raise AuditError(f"{path} is damaged: it holds no sections")
        return Suite(str(kept.get("name")), str(kept.get("about", "")), content)
    spec = spec_of(run)
    named = spec.suite or str(run.info.get("suite"))
    if named in suites.names() and not (spec.suite is None and spec.model.startswith("images:")):
        return suites.load(named)
    if not outside:
        raise AuditError(
            f"{run.path} was made before runs kept their suite, and its suite '{named[:80]}' is "
            "not a shipped one: run its command again, which makes no image twice"
        )
    if spec.suite is None and spec.model.startswith("images:"):
        from .engine import suite_of_images

        return suite_of_images(spec)
    return suites.load(named)


def study_of(run: Run, **options: Mapping[str, Any]) -> Study:
    """The study of a run, for its analysis alone.

    Args:
        options: probe → options over those of the run's settings.

    Raises:
        AuditError: run.json or the suite is damaged.
    """
    spec = spec_of(run)
    probes = {name: dict(given) for name, given in spec.probes.items()}
    for name, given in options.items():
        probes[name] = {**probes.get(name, {}), **given}
    # A run of all probes names none: one that is named now does not exclude the others here.
    return Study(dataclasses.replace(spec, probes=probes), suite_of(run), None)


def attributes_of(run: Run, probe: str) -> dict[str, tuple[str, ...]]:
    """What a probe reads from images: attribute → labels, of those that the suite declares.

    Raises:
        AuditError: the run has no suite, or it is damaged.
    """
    suite, spec = suite_of(run), spec_of(run)
    declared = suite.section("attributes")
    section = {**suite.section(probe), **spec.probes.get(probe, {})}
    found = {}
    for name in section.get("attributes") or ():
        try:
            labels = tuple(str(label) for label in declared[name]["labels"])
        except (KeyError, TypeError) as error:
            raise AuditError(
                f"{run.path}: the suite has no labels of the attribute '{str(name)[:80]}'"
            ) from error
        if not 1 < len(labels) <= 100 or any(len(text) > 100 for text in (name, *labels)):
            raise AuditError(f"{run.path}: the labels of '{name[:80]}' cannot be chosen from")
        found[str(name)] = labels
    return found


def named_files(study: Study, probe: Any) -> list[Path]:
    """Files beside the run that a probe's analysis would read."""
    asked = getattr(probe, "files", None)
    return [] if asked is None else [Path(path) for path in asked(study)]
