"""What ``t2i-audit compare`` says of two runs, asked of it in a process of its own.

The comparison reads the tables behind the findings, needs scipy and statsmodels, and asks the
probes which detectors they rest on. None of this stays in the dashboard's memory.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import streamlit as st

from audit.card import wording
from audit.errors import AuditError
from audit.findings import Finding
from audit.store import Run

LONGEST = 600
"""Seconds that a comparison may take."""
HELD = "0", "3"
"""Exit codes with a document: done, and a gate that does not hold."""


def document(first: Run, second: Run, margin: float | None = None) -> dict[str, Any]:
    """The comparison as :func:`audit.compare.report.document` writes it; made again when a run has
    grown.

    Args:
        margin: the change that does not count; ``None``: each finding's own.

    Raises:
        AuditError: the runs cannot be compared.
    """
    return _document(str(first.path), str(second.path), margin, (_state(first), _state(second)))


@st.cache_data(max_entries=8, show_spinner="Comparing the two runs …")
def _document(first: str, second: str, margin: float | None, state: Any) -> dict[str, Any]:
    del state  # it is part of the key
    command = [sys.executable, "-m", "audit.cli", "compare", first, second, "--json"]
    if margin is not None:
        command += ["--margin", repr(margin)]
    try:
        done = subprocess.run(
            command,
            cwd=Path(__file__).parents[1],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LONGEST,
        )
    except subprocess.TimeoutExpired as error:
        raise AuditError(
            f"the comparison took longer than {LONGEST // 60} minutes; use t2i-audit compare"
        ) from error
    if str(done.returncode) not in HELD:
        lines = done.stderr.strip().splitlines() or ["no reason was given"]
        raise AuditError(f"the runs cannot be compared: {lines[-1].removeprefix('Error: ')}")
    try:
        found = json.loads(done.stdout)
    except json.JSONDecodeError as error:
        raise AuditError(f"t2i-audit compare wrote no document: {error}") from error
    return dict(found)


def _state(run: Run) -> tuple[tuple[str, int, int], ...]:
    """Changes whenever what the comparison reads does."""
    paths = [
        *run.path.glob("*.json"),
        *run.path.glob("*.parquet"),
        *run.path.glob("uses/*.parquet"),
        *run.path.glob("tables/*.parquet"),
        run.path / "records",
        *run.path.glob("detections/*/"),
    ]
    known = [(path, path.stat()) for path in sorted(paths) if path.exists()]
    return tuple(
        (path.relative_to(run.path).as_posix(), about.st_mtime_ns, about.st_size)
        for path, about in known
    )


def change(row: dict[str, Any]) -> Finding:
    """A change as a finding: its estimate and interval against no change and the margin."""
    return Finding(
        str(row["probe"]),
        str(row["metric"]),
        dict(row["slice"]),
        row["estimate"],
        (row["ci"][0], row["ci"][1]) if row["ci"] else None,
        row["level"],
        method=row["method"],
        reference=0.0,
        reference_name="no change",
        threshold=row["margin"],
        verdict=row["verdict"],
        note=row["reason"],
    )


def said(metric: str, value: float) -> str:
    """A difference of two values of a metric, signed; of shares in percentage points.

    As :func:`audit.compare.report.difference`, which would bring scipy along.

    >>> said("share_glasses", -0.125), said("alignment_gap", 0.01)
    ('−12.5 pp', '+0.010')
    """
    shown = wording.metric(metric).show(abs(value)).lstrip("+")
    shown = f"{shown[:-1]} pp" if shown.endswith("%") else shown
    return ("+" if value > 0 else "−" if value < 0 else "") + shown
