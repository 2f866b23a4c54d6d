"""Do a run's findings follow from its raw scores? Analysed once more, and held against what stands.

Nothing is generated, no model is loaded, and nothing is written.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import pandas as pd

from . import engine, plugins, rounds
from .errors import AuditError
from .findings import Finding
from .gates import evaluate
from .recompute import CSV, DOCUMENT
from .reopened import named_files, study_of
from .store import Run, column_safe

CLOSE = 1e-6
"""Relative difference of two figures that does not count: processors round in their own ways."""


def problems(run: Run, *, read_files: bool = False) -> list[str]:
    """One line for every finding, table and gate that does not come out again.

    Args:
        read_files: read the files beside the run that its settings name, such as an index.

    Raises:
        AuditError: the run cannot be analysed again.
    """
    kept = run.read_json(DOCUMENT)
    given = (kept.get("labels") or {}).get("count")
    labelled = {kept["probe"]: {"labels": str(run.path / CSV)}} if given else {}
    study = study_of(run, **labelled)
    stored = run.read_json("findings.json", [])
    found: list[str] = []
    again: list[Finding] = []
    for name in dict.fromkeys([row["probe"] for row in stored] + list(study.spec.probes)):
        probe = plugins.load("probes", name)()
        outside = [path for path in named_files(study, probe) if path != run.path / CSV]
        if outside and not read_files:
            raise AuditError(
                f"{name} reads files beside the run: {', '.join(map(str, outside))[:300]}; "
                "add --read-files where you trust them"
            )
        analysis = probe.analyse(run, rounds.study_of(study, probe))
        made = engine.with_provenance(run, analysis.findings)
        again += made
        said = [row for row in stored if row["probe"] == name]
        found += _findings(said, json.loads(json.dumps([finding.as_dict() for finding in made])))
        for table, frame in analysis.tables.items():
            file = f"tables/{column_safe(name)}.{table}"
            if not _same_table(run.read_table(file), frame):
                found.append(f"{file}.parquet: another table comes out of the raw scores")
    gates = json.loads(json.dumps(evaluate(study.spec.gates, again)))
    if not _same(gates, run.read_json("gates.json", [])):
        found.append("gates.json: the gates come out otherwise")
    return found


def _findings(stored: list[dict[str, Any]], again: list[dict[str, Any]]) -> Iterator[str]:
    before, after = ({row["id"]: row for row in rows} for rows in (stored, again))
    for name, row in before.items():
        if name not in after:
            yield f"findings.json: {name} does not come out of the raw scores"
            continue
        wrong = [key for key in row if not _same(row[key], after[name].get(key))]
        for key in wrong[:1]:
            more = f" (and {len(wrong) - 1} more fields)" if len(wrong) > 1 else ""
            yield (
                f"findings.json: {name}: {key} {_short(row[key])}, "
                f"and {_short(after[name].get(key))} comes out of the raw scores{more}"
            )
    for name in after.keys() - before.keys():
        yield f"findings.json: {name} is missing"
    if len(stored) != len(before):
        yield "findings.json: two findings have one id"


def _same(one: Any, two: Any) -> bool:
    if isinstance(one, bool) or isinstance(two, bool) or one is None or two is None:
        return one is two
    if isinstance(one, int | float) and isinstance(two, int | float):
        return math.isclose(one, two, rel_tol=CLOSE, abs_tol=CLOSE**2)
    if isinstance(one, list) and isinstance(two, list):
        return len(one) == len(two) and all(map(_same, one, two))
    if isinstance(one, dict) and isinstance(two, dict):
        return one.keys() == two.keys() and all(_same(one[key], two[key]) for key in one)
    return bool(one == two)


def _same_table(stored: pd.DataFrame, made: pd.DataFrame) -> bool:
    if list(stored.columns) != list(made.columns) or len(stored) != len(made):
        return made.empty and stored.empty
    return _same(_rows(stored), _rows(made))


def _rows(frame: pd.DataFrame) -> Any:
    """As JSON, where it matters not what kind of nothing stands in a cell."""
    return json.loads(frame.to_json(orient="values", double_precision=12, default_handler=str))


def _short(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)[:60]
