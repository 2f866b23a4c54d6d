"""A run's documents, which may come from anyone: read, checked, and refused in one line."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from audit.errors import AuditError
from audit.findings import Finding

if TYPE_CHECKING:
    from audit.store import Run


def info(run: Run) -> dict[str, Any]:
    """run.json.

    Raises:
        AuditError: it, or one of its parts that are mappings, is none.
    """
    held = mapping(run, "run.json")
    for name in ("sampler", "backend", "spec", "versions", "design"):
        if not isinstance(held.get(name) or {}, dict):
            raise AuditError(f"{run.path}/run.json is damaged: its {name} is no mapping")
    return held


def findings(run: Run) -> list[Finding]:
    """findings.json, every finding checked.

    Raises:
        AuditError: naming the finding and what is wrong with it.
    """
    rows = run.read_json("findings.json", [])
    if not isinstance(rows, list):
        raise AuditError(f"{run.path}/findings.json is damaged: it is no list of findings")
    return [
        _finding(row, f"{run.path}/findings.json: finding {number}")
        for number, row in enumerate(rows, 1)
    ]


def mapping(run: Run, name: str, *, of_mappings: bool = False) -> dict[str, Any]:
    """A document that is a mapping; empty where there is none.

    Raises:
        AuditError: it is something else.
    """
    held = run.read_json(name)
    inner = held.values() if isinstance(held, dict) and of_mappings else ()
    if not isinstance(held, dict) or not all(isinstance(one, dict) for one in inner):
        said = "no mapping of names to mappings" if of_mappings else "no mapping"
        raise AuditError(f"{run.path / name} is damaged: it is {said}")
    return held


def gates(run: Run) -> list[dict[str, Any]]:
    """gates.json.

    Raises:
        AuditError: it is no list of mappings.
    """
    held = run.read_json("gates.json", [])
    if not isinstance(held, list) or not all(isinstance(gate, dict) for gate in held):
        raise AuditError(f"{run.path}/gates.json is damaged: it is no list of gates")
    return held


def energy(run: Run) -> dict[str, Any]:
    """energy.json.

    Raises:
        AuditError: it, or one of its steps, is no mapping.
    """
    held = mapping(run, "energy.json")
    steps = held.get("steps") or {}
    if not isinstance(steps, dict) or not all(isinstance(step, dict) for step in steps.values()):
        raise AuditError(f"{run.path}/energy.json is damaged: its steps are no mappings")
    return held


@contextmanager
def whole_tables(run: Run) -> Iterator[None]:
    """Say in one line that a table is damaged.

    Raises:
        AuditError: DuckDB could not read a table of the run.
    """
    import duckdb

    try:
        yield
    except duckdb.Error as error:
        line = str(error).partition("\n")[0][:300]
        raise AuditError(
            f"a table of {run.path} is damaged: {line}; `t2i-audit verify` names the files"
        ) from error


def finite(value: Any) -> float | None:
    """A number that can be printed and drawn; anything else is ``None``."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # JSON's integers have no end
        return None


def _finding(row: Any, where: str) -> Finding:
    try:
        if not isinstance(row, Mapping):
            raise ValueError("it is no mapping")
        row = dict(row)
        texts = [row.get(name, "") for name in ("probe", "metric", "method", "note")]
        if not all(isinstance(one, str) for one in texts) or not texts[0] or not texts[1]:
            raise ValueError("probe and metric are names")
        for name in ("slice", "evidence", "detail"):
            if not isinstance(row.get(name, {}), dict):
                raise ValueError(f"{name} is no mapping")
        for name in ("estimate", "raw", "reference", "threshold"):
            row[name] = finite(row.get(name))
        for name in ("n", "clusters"):
            if not isinstance(row.get(name) or 0, int) or (row.get(name) or 0) < 0:
                raise ValueError(f"{name} is no count")
        row["level"] = finite(row.get("level", 0.95))
        if row["level"] is None or not 0 < row["level"] < 1:
            raise ValueError("level is no share")
        bounds = [finite(bound) for bound in row.get("ci") or ()]
        # Half an interval is none: an infinite bound is stored as null.
        row["ci"] = bounds if len(bounds) == 2 and None not in bounds else None
        return Finding.from_dict(row)
    except (TypeError, ValueError) as error:
        raise AuditError(f"{where} is damaged: {error}") from error
