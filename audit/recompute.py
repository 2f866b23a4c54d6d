"""Findings with people's labels: analysed again from the run's tables; nothing is made."""

from __future__ import annotations

import csv
import io
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import AuditError
from .labels import Label, Labels
from .reopened import attributes_of, named_files, study_of
from .store import Run, column_safe

CSV = "labels.csv"
DOCUMENT = "recomputed.json"
PROBE = "demographics"
"""The probe whose images people label."""

Rows = list[dict[str, Any]]


def csv_of(labels: Iterable[Label], attributes: Sequence[str]) -> str:
    """Labels that count as :func:`.label_files.read_labels` reads them: a row a rater and image.

    An attribute that nobody labelled has no column.
    """
    labels = list(labels)
    given = {label.attribute for label in labels}
    table: dict[tuple[str, str], dict[str, str]] = {}
    for label in labels:
        row = table.setdefault(
            (label.image, label.author),
            {"image": label.image, "request": label.request, "author": label.author},
        )
        row[label.attribute] = label.label
    text = io.StringIO()
    names = ["image", "request", "author", *(name for name in attributes if name in given)]
    writer = csv.DictWriter(text, names, restval="", extrasaction="raise", lineterminator="\n")
    writer.writeheader()
    try:
        writer.writerows(table.values())
    except ValueError as error:
        raise AuditError(f"there are labels of an attribute that the suite lacks: {error}") from (
            error
        )
    return text.getvalue()


def recompute(
    run: Run,
    probe: str = PROBE,
    *,
    read_files: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Analyse a probe again with the labels that count now, or without where none does.

    ``findings.json`` and the probe's tables become those with labels. ``recomputed.json`` keeps the
    findings before and after; before is always without labels of this kind.

    Args:
        read_files: read the files beside the run that its settings name.
        say: told each step.

    Returns:
        The content of ``recomputed.json``.

    Raises:
        AuditError: the run cannot be analysed again; nothing was changed.
    """
    from . import engine, plugins, rounds

    attributes = attributes_of(run, probe)
    labels = Labels(run, attributes)
    given = labels.current()
    options: dict[str, Any] = {}
    say(f"1/4 reading {len(given):,} labels")
    text = csv_of(given, list(attributes))
    if given:
        options = {"labels": str(run.path / CSV)}
    study = study_of(run, **{probe: options})
    asked = plugins.load("probes", probe)()
    outside = [path for path in named_files(study, asked) if path != run.path / CSV]
    if outside and not read_files:
        raise AuditError(
            f"the run's settings name files: {', '.join(str(path)[:200] for path in outside)}; "
            "add --read-files where you trust them"
        )
    for name in ("tables", "labels.csv", DOCUMENT, "findings.json", "gates.json"):
        if (run.path / name).is_symlink():
            raise AuditError(f"{run.path / name} is a link: the run is not changed")
    if not os.access(run.path, os.W_OK):
        raise AuditError(f"{run.path} is read-only: copy the run to a folder that can be written")
    with run.lock():
        if given:
            run.write_bytes(CSV, text.encode())
        say(f"2/4 analysing {probe}")
        analysis = asked.analyse(run, rounds.study_of(study, asked))
        findings = engine.with_provenance(run, analysis.findings)
        after: Rows = [finding.as_dict() for finding in findings]
        say("3/4 keeping the findings before and after")
        now: Rows = [row for row in run.read_json("findings.json", []) if row["probe"] == probe]
        kept = run.read_json(DOCUMENT)
        same = kept.get("probe") == probe and kept.get("after") == now
        document = {
            "probe": probe,
            "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "labels": _about(given),
            "before": kept["before"] if same else now,
            "after": after,
        }
        # First what they were: a kill between the two loses nothing.
        run.write_json(DOCUMENT, document)
        say("4/4 writing the findings")
        for name, frame in analysis.tables.items():
            run.write_table(f"tables/{column_safe(probe)}.{name}", frame)
        engine.write_findings(run, study, findings, [probe])
    return document


@dataclass(frozen=True)
class Change:
    """One finding before and after; ``None`` where there was none."""

    id: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None


def changes(before: Rows, after: Rows) -> list[Change]:
    """The findings whose figure, interval, verdict or correction differs, in the order of after."""
    old = {row["id"]: row for row in before}
    new = {row["id"]: row for row in after}
    shown = ("estimate", "ci", "verdict", "corrected_for", "method", "n")
    return [
        Change(name, old.get(name), new.get(name))
        for name in dict.fromkeys([*new, *old])
        if name not in old
        or name not in new
        or any(old[name].get(key) != new[name].get(key) for key in shown)
    ]


def _about(given: Sequence[Label]) -> dict[str, Any]:
    return {
        "count": len(given),
        "images": len({label.image for label in given}),
        "raters": sorted({label.author for label in given}),
        "last": max((label.id for label in given), default=0),
        "blind": sum(label.blind for label in given),
    }
