"""Findings as a table: the figure, its interval against the reference, the way to its images."""

from __future__ import annotations

import math
from collections.abc import Iterable
from html import escape

from audit.findings import Finding

from . import parts


def table(findings: list[Finding], run: str | None = None) -> str:
    """The findings of one probe, those of a metric together and on one axis.

    Args:
        run: the label of their run, where that is not the chosen one.
    """
    names = dict.fromkeys(f.metric for f in findings)
    body = "".join(_metric([f for f in findings if f.metric == name], run) for name in names)
    return (
        '<div class="t2i-scroll"><table class="t2i-table t2i-findings"><thead><tr>'
        '<th scope="col">Where</th><th scope="col" class="t2i-right">Estimate</th>'
        '<th scope="col">Interval and reference</th><th scope="col">Verdict</th>'
        f'<th scope="col">Evidence</th></tr></thead>{body}</table></div>'
    )


def _metric(findings: list[Finding], run: str | None) -> str:
    low, high = axis(findings)
    method = " · ".join(
        dict.fromkeys(f"{f.method}, {f.level:.0%} interval" for f in findings if f.method)
    )
    ends = f"plots from {parts.number(low)} to {parts.number(high)}" if high > low else ""
    about = escape(" · ".join(filter(None, [method, ends])))
    head = (
        f'<tr class="t2i-metric"><th scope="rowgroup" colspan="5">'
        f"{parts.words(findings[0].metric)} <small>{about}</small></th></tr>"
    )
    return f"<tbody>{head}{''.join(_row(f, low, high, run) for f in findings)}</tbody>"


def _row(f: Finding, low: float, high: float, run: str | None) -> str:
    interval = f"[{parts.number(f.ci[0])}, {parts.number(f.ci[1])}]" if f.ci else ""
    raw = f"raw {parts.number(f.raw)}, corrected for {f.corrected_for}" if f.corrected_for else ""
    source = f"provenance {f.provenance}" if f.provenance else ""
    note = " · ".join(escape(text) for text in (f.note, raw, source) if text)
    below = f'<tr class="t2i-note"><td colspan="5"><small>{note}</small></td></tr>' if note else ""
    clusters = (
        ""
        if f.clusters is None
        else (f"<small>{f.clusters:,} cluster{'' if f.clusters == 1 else 's'}</small>")
    )
    address = parts.link("gallery", finding=f.id, **({"run": run} if run else {}))
    images = (
        f'<a href="{address}" target="_self" aria-label="{f.n:,} images of {escape(f.id)}">'
        f"{f.n:,} images</a>"
        if f.n or f.evidence
        else '<span class="t2i-dim">none</span>'
    )
    return (
        f"<tr{' class=t2i-noted' if note else ''}><td>{parts.slice_of(f) or 'all images'}</td>"
        f'<td class="t2i-right"><b>{parts.number(f.estimate)}</b><small>{interval}</small></td>'
        f"<td>{plot(f, low, high)}{_reference(f)}</td><td>{parts.verdict(f.verdict)}</td>"
        f"<td>{images}{clusters}</td></tr>{below}"
    )


def _reference(f: Finding) -> str:
    if f.reference is None:
        return f"<small>{escape(f.reference_name)}</small>" if f.reference_name else ""
    margin = f" ± {parts.number(f.threshold)}" if f.threshold else ""
    name = f", {escape(f.reference_name)}" if f.reference_name else ""
    return f"<small>reference {parts.number(f.reference)}{margin}{name}</small>"


def axis(findings: Iterable[Finding]) -> tuple[float, float]:
    """The ends that all plots of a metric share, so that rows can be compared by eye."""
    values = [
        value
        for f in findings
        for value in (f.estimate, *(f.ci or ()), f.reference)
        if value is not None and math.isfinite(value)
    ]
    if not values:
        return 0.0, 0.0
    low, high = min(values), max(values)
    if low >= 0 and high <= 1 and high - low > 0.3:
        return 0.0, 1.0
    room = (high - low) * 0.05 or 0.5
    return (max(0.0, low - room) if low >= 0 else low - room), high + room


def plot(f: Finding, low: float, high: float) -> str:
    """Estimate, interval, reference and margin on the axis from `low` to `high`."""
    if f.estimate is None or high <= low:
        return ""

    def at(value: float) -> float:
        return min(100.0, max(0.0, 100 * (value - low) / (high - low)))

    marks, told = [], f"estimate {parts.number(f.estimate)}"
    if f.reference is not None:
        margin = f.threshold or 0.0
        left, right = at(f.reference - margin), at(f.reference + margin)
        marks += [
            f'<i class="t2i-band" style="left:{left:.1f}%;width:{right - left:.1f}%"></i>',
            f'<i class="t2i-ref" style="left:{at(f.reference):.1f}%"></i>',
        ]
        told += f", reference {parts.number(f.reference)}"
    if f.ci:
        left, right = at(f.ci[0]), at(f.ci[1])
        marks.append(f'<i class="t2i-ci" style="left:{left:.1f}%;width:{right - left:.1f}%"></i>')
        told += f", interval {parts.number(f.ci[0])} to {parts.number(f.ci[1])}"
    marks.append(f'<i class="t2i-point" style="left:{at(f.estimate):.1f}%"></i>')
    kind = f.verdict if f.verdict in parts.VERDICTS else "inconclusive"
    return (
        f'<div class="t2i-plot t2i-{kind}" role="img" aria-label="{told}" title="{told}">'
        f"{''.join(marks)}</div>"
    )
