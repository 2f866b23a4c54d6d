"""A run made by hand: uses, records and detections, without a model and without pixels."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from audit.evidence import select, table
from audit.findings import Finding
from audit.plan import Use
from audit.spec import Spec
from audit.store import SCHEMA_VERSION, Run, column_safe
from audit.study import Study
from audit.suites import Suite


def study(section: str = "", content: Any = None, **settings: Any) -> Study:
    """A study of no model with one suite section."""
    suite = Suite("made-up", "", {section: content} if section else {})
    spec = Spec(**settings)
    return Study(spec, suite, None, {"height": 64, "width": 64, "steps": 2})


def build(
    folder: Path,
    probe: str,
    uses: Sequence[Use],
    scores: Mapping[str, Sequence[Mapping[str, Any] | None]],
    outcomes: Sequence[str] | None = None,
    unavailable: Mapping[str, str] | None = None,
) -> Run:
    """Write a run.

    Args:
        scores: detector → for each use its columns, or ``None`` where it has no score.
        outcomes: for each use ``ok``, ``failed`` or ``missing``; default all ``ok``.
    """
    run = Run.create(folder)
    run.write_json("run.json", {"schema_version": SCHEMA_VERSION})
    states = list(outcomes or ["ok"] * len(uses))
    ids = [use.request.id for use in uses]
    assert len(set(ids)) == len(ids), "requests must differ"
    plan = [{"request": u.request.id, **dataclasses.asdict(u.request)} for u in uses]
    run.write_table("plan", pd.DataFrame(plan))
    rows = [{"request": use.request.id, "text": use.text, **use.tags} for use in uses]
    run.write_table(f"uses/{column_safe(probe)}", pd.DataFrame(rows))
    records = [
        {"request": id_, "outcome": state, "image": _digest(id_) if state == "ok" else None}
        for id_, state in zip(ids, states, strict=True)
        if state != "missing"
    ]
    run.write_part("records", 0, pd.DataFrame(records))
    for detector, found in scores.items():
        detections = [
            {"request": id_, "image": _digest(id_), **columns}
            for id_, state, columns in zip(ids, states, found, strict=True)
            if state == "ok" and columns is not None
        ]
        run.write_part(f"detections/{detector}", 0, pd.DataFrame(detections))
    run.write_json(
        "detectors.json", {k: {"unavailable": v} for k, v in (unavailable or {}).items()}
    )
    return run


def by_id(findings: Iterable[Finding]) -> dict[str, Finding]:
    listed = list(findings)
    assert len({finding.id for finding in listed}) == len(listed), "ids must be unique"
    return {finding.id: finding for finding in listed}


def assert_traceable(run: Run, probe: str, findings: Iterable[Finding]) -> None:
    """Every tested finding's evidence selects as many images as it counts, and it survives JSON."""
    frame = table(run, probe)
    for finding in findings:
        assert finding.note.endswith("."), finding
        assert Finding.from_dict(finding.as_dict()).id == finding.id
        if finding.verdict == "not_tested":
            assert finding.estimate is None
            continue
        assert len(select(frame, finding.evidence)) == finding.n, finding.id
        assert set(finding.evidence) <= set(frame.columns)
        assert finding.ci is not None
        assert finding.ci[0] <= finding.estimate <= finding.ci[1]  # type: ignore[operator]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
