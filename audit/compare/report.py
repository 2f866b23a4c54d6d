"""A comparison as JSON and as lines on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from audit.card.strokes import short
from audit.card.wording import VERDICTS, clean, metric, plain, where

from .changes import Change, Comparison, tally
from .setup import Differs, weights_hash

Row = tuple[str, ...]


def document(compared: Comparison, gates: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The whole comparison, JSON-ready."""
    return {
        "schema_version": 1,
        "first": _run(compared.first),
        "second": _run(compared.second),
        "level": compared.level,
        "setup": [row.as_dict() for row in compared.setup],
        "not_judged": dict(compared.unjudged_probes),
        "family": {"changes": len(compared.judged), "method": "Benjamini-Hochberg"},
        "verdicts": tally(compared.changes),
        "changes": [change.as_dict() for change in compared.changes],
        "only_first": [finding.as_dict() for finding in compared.only_first],
        "only_second": [finding.as_dict() for finding in compared.only_second],
        "gates": list(gates),
    }


def _run(run: Any) -> dict[str, str]:
    return {
        "run": str(run.path),
        "model": str(run.info.get("model")),
        "created": str(run.info.get("created")),
        "weights_sha256": weights_hash(run),
    }


def ordered(changes: Sequence[Change]) -> list[Change]:
    """What changed most clearly first: beyond its margin, then at all, then by its p-value."""

    def key(change: Change) -> tuple[bool, bool, float]:
        p = 2.0 if change.p is None else change.p
        return change.verdict != "exceeds", not change.differs, p

    return sorted(changes, key=key)


def notable(compared: Comparison) -> list[Change]:
    """Changes that are shown, or whose two findings have different verdicts."""
    return [
        change
        for change in ordered(compared.changes)
        if change.verdict == "exceeds" or change.differs or change.turned
    ]


def named(change: Change) -> str:
    """Metric and slice, as on the card."""
    label = clean(metric(change.first.metric).label)
    return f"{label}: {clean(where(change.first))}" if change.first.slice else label


def shown(change: Change) -> str:
    """The change with its interval, in the metric's unit."""
    if change.estimate is None:
        return "not measured"
    said = difference(change, change.estimate)
    if change.ci is None:
        return said
    return f"{said} ({difference(change, change.ci[0])} to {difference(change, change.ci[1])})"


def difference(change: Change, value: float) -> str:
    """A difference of two values of the metric, signed; of shares in percentage points."""
    show = metric(change.first.metric).show
    said = show(abs(value)).lstrip("+")
    said = f"{said[:-1]} pp" if said.endswith("%") else said
    return ("+" if value > 0 else "−" if value < 0 else "") + said


def margin(change: Change) -> str:
    """The change that does not count."""
    return difference(change, change.margin).lstrip("+") if change.margin else "0"


def lines(compared: Comparison, gates: Sequence[dict[str, Any]], everything: bool) -> list[str]:
    """What is printed: the setup, the notable changes (or all), what is left out, the gates."""
    out = [f"first   {_title(compared.first)}", f"second  {_title(compared.second)}"]
    if compared.setup:
        out += ["", "Setup that differs"]
        out += _table([("", "first", "second", ""), *map(_differing, compared.setup)])
    else:
        out += ["", "Nothing of the setup differs."]
    counts = ", ".join(f"{n:,} {VERDICTS[name]}" for name, n in tally(compared.changes).items())
    out += ["", f"Changes against their margins: {counts}; {len(compared.judged):,} in one family."]
    rows = ordered(compared.changes) if everything else notable(compared)
    if rows:
        heading = ("", "first", "second", "change", "p adj.", "margin", "change is", "verdicts")
        out += _table([heading, *map(_line, rows)])
    else:
        out.append("No change is shown, and no verdict differs.")
    for probe, reason in compared.unjudged_probes.items():
        out.append(f"not judged: {clean(plain(probe))}: {reason}")
    for name, only in (("first", compared.only_first), ("second", compared.only_second)):
        if only:
            kinds = dict.fromkeys(f"{finding.probe}.{finding.metric}" for finding in only)
            out.append(f"only in the {name}: {len(only):,} findings of {clean(', '.join(kinds))}")
    for gate in gates:
        out.append(f"gate {gate['state']}: {clean(gate['gate'])}")
    return out


def _differing(row: Differs) -> Row:
    cells = (row.what, row.first, row.second, row.consequence)
    return tuple(short(clean(cell), 72) for cell in cells)


def _line(change: Change) -> Row:
    show = metric(change.first.metric).show
    values = ("", "") if change.values is None else tuple(map(show, change.values))
    return (
        clean(change.id),
        *values,
        shown(change),
        "" if change.p_adjusted is None else f"{change.p_adjusted:.2g}",
        margin(change),
        VERDICTS[change.verdict],
        turn(change),
    )


def turn(change: Change) -> str:
    """The verdicts of the two findings."""
    names = [VERDICTS.get(f.verdict, f.verdict) for f in (change.first, change.second)]
    return " → ".join(names) if change.turned else names[0]


def _title(run: Any) -> str:
    made = str(run.info.get("created", ""))[:10]
    return clean(f"{run.info.get('model')}  {run.path}  {made}")


def _table(rows: Sequence[Row]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
