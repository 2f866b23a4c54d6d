"""The findings of a run, which may come from someone else: every field has its type, or none."""

from __future__ import annotations

import math
from typing import Any

from audit.errors import AuditError
from audit.findings import Finding
from audit.store import Run

REALS = ("estimate", "raw", "reference", "threshold")
TEXTS = ("probe", "metric", "method", "note", "verdict", "corrected_for", "reference_name")


def findings(run: Run) -> list[Finding]:
    """The findings of a run.

    Raises:
        AuditError: findings.json is damaged.
    """
    try:
        return [finding(dict(row)) for row in run.read_json("findings.json", [])]
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise AuditError(f"{run.path / 'findings.json'} is damaged: {error}") from error


def finding(row: dict[str, Any]) -> Finding:
    """A finding from its JSON; an open end of an interval is infinite."""
    for name in REALS:
        row[name] = None if row.get(name) is None else float(row[name])
    for name in TEXTS:
        row[name] = str(row.get(name) or "")
    bounds = row.pop("ci", None)
    # JSON has no infinity and no NaN: an open end of an interval is stored as null.
    if bounds and any(bound is not None for bound in bounds):
        low, high = bounds
        row["ci"] = (
            -math.inf if low is None else float(low),
            math.inf if high is None else float(high),
        )
    row["n"], row["level"] = int(row.get("n") or 0), float(row.get("level") or 0.95)
    row["clusters"] = None if row.get("clusters") is None else int(row["clusters"])
    row["slice"], row["evidence"] = dict(row.get("slice") or {}), dict(row.get("evidence") or {})
    return Finding.from_dict(row)
