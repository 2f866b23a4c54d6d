"""Findings as tables: what all rows share is said once, above them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from audit.findings import Finding

from .blocks import Cell, Number, Row, Table, code, count, number, text
from .documents import finite
from .wording import VERDICTS, clean, metric, plain, scalar, short_query, values, where


def by_metric(findings: Sequence[Finding]) -> list[tuple[str, list[Finding]]]:
    """Findings in groups of one metric and the same slice columns, in their order."""
    groups: dict[tuple[str, tuple[str, ...]], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.metric, tuple(finding.slice)), []).append(finding)
    return [(_title(name, columns), group) for (name, columns), group in groups.items()]


def findings_table(title: str, findings: Sequence[Finding], *, folded: bool = False) -> Table:
    """Estimate, interval, n, reference, verdict and evidence of every finding.

    Findings of one metric are named by their slices, those of several metrics by their metric.
    """
    first = next(iter(findings))
    slices = [plain(column).capitalize() for column in first.slice]
    one = len({finding.metric for finding in findings}) == 1
    named: Callable[[Finding], str] = values if one else _label
    columns: dict[str, Callable[[Finding], Cell]] = {
        " · ".join(slices) or ("Slice" if one else "Measured"): lambda f: text(named(f)),
        "Estimate": estimate,
        "Images": lambda finding: count(finding.n),
    }
    shared: list[str] = []
    if any(finding.corrected_for for finding in findings):
        columns["Uncorrected"] = _raw
    if any(finding.reference is not None for finding in findings):
        columns["Reference"] = _reference
    columns["Verdict"] = verdict
    said: list[tuple[str, Callable[[Finding], str]]] = [
        ("in parentheses", lambda f: f"the {100 * f.level:g}% interval" if f.ci else ""),
        ("groups of images", lambda f: f"{f.clusters:,}" if f.clusters is not None else ""),
        ("corrected for", lambda f: f.corrected_for or ""),
        ("margin", lambda f: "" if f.threshold is None else scalar(f.threshold)),
        ("provenance of the images", lambda f: f.provenance),
    ]
    if one:
        said.insert(2, ("method", lambda f: f.method))
        said.insert(4, ("reference", lambda f: f.reference_name or ""))
    for name, read in said:
        held = {read(finding) for finding in findings} - {""}
        if len(held) == 1:
            shared.append(f"{name}: {held.pop()}")
        elif held:
            heading = "Compared with" if name == "reference" else name.capitalize()
            columns[heading] = _reader(read)
    if one:
        every = _common([finding.note for finding in findings])
        own = {f.id: " ".join(s for s in _sentences(f.note) if s not in every) for f in findings}
        shared += [sentence.rstrip(".") for sentence in every]
        if any(own.values()):
            columns["Note"] = _reader(lambda finding: own[finding.id])
    if one and any(finding.evidence for finding in findings):
        columns["Evidence"] = _evidence
    rows = [Row([make(finding) for make in columns.values()], finding.id) for finding in findings]
    note = "; ".join(map(clean, shared))
    return Table(
        title, list(columns), rows, f"{note[:1].upper()}{note[1:]}." if note else "", folded
    )


def methods_table(title: str, findings: Sequence[Finding]) -> Table:
    """How each of several metrics was measured, and the images behind it."""
    columns = ["Measured", "Note", "Method", "Compared with", "Evidence"]
    rows = [
        Row(
            [
                text(_label(f)), text(f.note), text(f.method), text(f.reference_name or ""),
                _evidence(f),
            ]
        )
        for f in findings
    ]  # fmt: skip
    return Table(f"{title}: how it was measured", columns, rows, folded=True)


def cross_checks(title: str, findings: Sequence[Finding]) -> Table | None:
    """Images by outcome, bounds and second instruments, where a finding's detail holds them."""
    rows = []
    for finding in findings:
        outcomes = finding.detail.get("outcomes")
        bounds = finding.detail.get("bounds")
        seconds = {
            name: about
            for name, about in finding.detail.items()
            if isinstance(about, Mapping) and finite(about.get("estimate")) is not None
        }
        if outcomes or bounds or seconds:
            show = metric(finding.metric).show
            rows.append(
                Row(
                    [
                        text(values(finding)),
                        _outcomes(outcomes),
                        _bounds(bounds, show),
                        _seconds(seconds, show),
                    ],
                    finding.id,
                )
            )
    if not rows:
        return None
    columns = ["Slice", "Images by outcome", "Bounds", "Second instrument"]
    kept = [0, *(i for i in (1, 2, 3) if any(row.cells[i].text for row in rows))]
    rows = [Row([row.cells[i] for i in kept], row.finding) for row in rows]
    return Table(
        f"{title}: outcomes and cross-checks",
        [columns[i] for i in kept],
        rows,
        "Bounds: the share, had every image without a label gone one way or the other.",
        folded=True,
    )


def summary(findings: Sequence[Finding], names: Mapping[str, str]) -> Table:
    """For every probe: how many findings came to which verdict.

    `names` has the title of each probe's section.
    """
    rows = []
    for probe in dict.fromkeys(finding.probe for finding in findings):
        own: list[str] = [f.verdict for f in findings if f.probe == probe]
        counts = [count(own.count(name)) for name in VERDICTS]
        rows.append(Row([text(names.get(probe, probe)), *counts]))
    verdicts = map(str.capitalize, VERDICTS.values())
    return Table("Findings by verdict", ["Section", *verdicts], rows)


def by_measure(findings: Sequence[Finding], names: Mapping[str, str]) -> Table:
    """The same for every metric of every probe, with what lies furthest from its reference."""
    rows = []
    probes = dict.fromkeys(finding.probe for finding in findings)
    for probe in probes:
        of_probe = [finding for finding in findings if finding.probe == probe]
        for title, group in by_metric(of_probe):
            counts = [count(sum(finding.verdict == name for finding in group)) for name in VERDICTS]
            rows.append(Row([text(title), text(names.get(probe, probe)), *counts, furthest(group)]))
    verdicts = map(str.capitalize, VERDICTS.values())
    columns = ["Measured", "Section", *verdicts, "Furthest from reference"]
    return Table("Findings by measure and verdict", columns, rows)


def furthest(findings: Sequence[Finding]) -> Cell:
    """The finding that lies furthest from its reference; a single one needs no reference."""
    measured = [f for f in findings if f.estimate is not None]
    compared = [f for f in measured if f.reference is not None]
    if len(measured) == 1:
        chosen = measured[0]
    elif compared:
        chosen = max(compared, key=lambda f: abs((f.estimate or 0.0) - (f.reference or 0.0)))
    else:
        return text("")
    parts: list[str | Number] = [f"{where(chosen)}: "] if chosen.slice else []
    parts += estimate(chosen).parts
    if chosen.reference is not None:
        shown = metric(chosen.metric).show(chosen.reference)
        parts += [" against ", Number(shown, chosen.reference)]
    return Cell(tuple(parts))


def estimate(finding: Finding) -> Cell:
    """A finding's estimate with its interval."""
    show = metric(finding.metric).show
    if finding.estimate is None:
        return text("not measured")
    parts: list[str | Number] = [Number(show(finding.estimate), finding.estimate)]
    if finding.ci is not None:
        low, high = finding.ci
        parts += [" (", Number(show(low), low), " to ", Number(show(high), high), ")"]
    return Cell(tuple(parts), "number")


def verdict(finding: Finding) -> Cell:
    """A finding's verdict in words."""
    return Cell((VERDICTS.get(finding.verdict, plain(finding.verdict)),), "verdict")


def _title(name: str, columns: Sequence[str]) -> str:
    *first, last = map(plain, columns or [""])
    by = f", by {', '.join(first)}{' and ' if first else ''}{last}" if columns else ""
    return clean(metric(name).label + by)


def _sentences(note: str) -> list[str]:
    return re.split(r"(?<=[.;]) +(?=[A-Z“])", note) if note else []


def _common(notes: Sequence[str]) -> list[str]:
    """The sentences that every note holds, where there are several notes."""
    if len(notes) < 2:
        return []
    held = [_sentences(note) for note in notes]
    return [sentence for sentence in held[0] if all(sentence in other for other in held[1:])]


def _evidence(finding: Finding) -> Cell:
    return code(short_query(finding)) if finding.evidence else text("")


def _label(finding: Finding) -> str:
    return clean(metric(finding.metric).label)


def _reader(read: Callable[[Finding], str]) -> Callable[[Finding], Cell]:
    return lambda finding: text(read(finding))


def _raw(finding: Finding) -> Cell:
    return (
        text("")
        if finding.raw is None
        else number(metric(finding.metric).show(finding.raw), finding.raw)
    )


def _reference(finding: Finding) -> Cell:
    return (
        text("none")
        if finding.reference is None
        else number(metric(finding.metric).show(finding.reference), finding.reference)
    )


def _outcomes(outcomes: Any) -> Cell:
    if not isinstance(outcomes, Mapping):
        return text("")
    parts: list[str | Number] = []
    for name, value in outcomes.items():
        if (amount := finite(value)) is not None:
            parts += [f"{', ' if parts else ''}{plain(name)} ", Number(f"{amount:,.0f}", amount)]
    return Cell(tuple(parts))


def _bounds(bounds: Any, show: Callable[[float], str]) -> Cell:
    held = [finite(bound) for bound in bounds] if isinstance(bounds, list | tuple) else []
    if len(held) != 2 or held[0] is None or held[1] is None:
        return text("")
    return Cell((Number(show(held[0]), held[0]), " to ", Number(show(held[1]), held[1])))


def _seconds(seconds: Mapping[str, Mapping[str, Any]], show: Callable[[float], str]) -> Cell:
    parts: list[str | Number] = []
    for name, about in seconds.items():
        value, n = float(about["estimate"]), finite(about.get("n"))
        parts += [f"{', ' if parts else ''}{plain(name)} ", Number(show(value), value)]
        parts += [" n ", Number(f"{n:,.0f}", n)] if n is not None else []
    return Cell(tuple(parts))
