"""Figures as SVG: pure functions from data to a string, drawn by the colours of the page.

Colours are those of Okabe and Ito (2008), as CSS variables that a dark page overrides; a verdict
also has its own shape, so that nothing depends on colour.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

WIDE, NARROW = 760, 350
"""Widths in pixels of the two forms of a plot of rows."""

STYLE = """
svg.figure { display: block; max-width: 100%; height: auto; font: 12.5px system-ui, sans-serif; }
svg.figure text { fill: var(--ink, #1b1f24); }
svg.figure text { stroke: var(--page, #fff); stroke-width: 4px; paint-order: stroke; }
svg.figure .quiet { fill: var(--quiet, #59636e); }
svg.figure .end { text-anchor: end; }
svg.figure .middle { text-anchor: middle; }
svg.figure .grid { stroke: var(--line, #d6dade); stroke-width: 1; }
svg.figure .axis { stroke: var(--quiet, #59636e); stroke-width: 1.2; }
svg.figure .interval { stroke-width: 2; fill: none; stroke: currentColor; }
svg.figure .stem { stroke-width: 6; stroke: currentColor; opacity: .28; }
svg.figure .curve { stroke-width: 2.2; fill: none; stroke: currentColor; }
svg.figure .shape { fill: currentColor; stroke: currentColor; stroke-width: 1.8; }
svg.figure .inconclusive .shape { fill: var(--page, #fff); }
svg.figure .reference { stroke: var(--ink, #1b1f24); stroke-width: 2.4; }
svg.figure .exceeds { color: var(--exceeds, #c04f00); }
svg.figure .within { color: var(--within, #007a5a); }
svg.figure .inconclusive { color: var(--unsure, #5b6675); }
svg.figure .series-0 { color: var(--series-0, #0072b2); }
svg.figure .series-1 { color: var(--series-1, #c04f00); }
svg.figure .series-2 { color: var(--series-2, #007a5a); }
svg.figure .series-3 { color: var(--series-3, #a0508a); }
"""

_DASHES = ("", "7 4", "2 4", "9 3 2 3")
_SHOWN = {"exceeds": "exceeds", "within": "within", "inconclusive": "inconclusive"}


@dataclass(frozen=True)
class Mark:
    """One line of a plot of rows; without an estimate the line says so."""

    label: str
    estimate: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    reference: float | None = None
    verdict: str = "inconclusive"


@dataclass(frozen=True)
class Curve:
    """Points (x, y) in the order in which they are joined; x and y are shares."""

    label: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Scale:
    """A linear map of a domain onto pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def forest(
    marks: Sequence[Mark],
    *,
    name: str,
    title: str,
    show: Callable[[float], str],
    axis: str,
    domain: tuple[float, float] | None = None,
    width: int = WIDE,
) -> str:
    """Estimates with intervals, one line each, and what they are compared with.

    Args:
        name: unique on the page; ids are made of it.
        show: prints a value of the axis.
        axis: what the axis measures.
        domain: the axis' ends; default: what holds every interval and reference.
        width: at :data:`NARROW` the label stands above its line.
    """
    domain = domain or _domain(marks, include=())
    return _rows(marks, name, title, show, axis, domain, width, stem=None)


def ladder(
    marks: Sequence[Mark],
    *,
    name: str,
    title: str,
    show: Callable[[float], str],
    axis: str,
    width: int = WIDE,
) -> str:
    """Differences from zero with intervals, the largest loss first."""
    ordered = sorted(marks, key=lambda mark: (mark.estimate is None, mark.estimate, mark.label))
    domain = _domain(marks, include=(0.0,))
    return _rows(ordered, name, title, show, axis, domain, width, stem=0.0)


def duplication(
    marks: Sequence[tuple[int, Mark]], *, name: str, title: str, axis: str, width: int = 560
) -> str:
    """Share copied against how often an image was in the training data, on a logarithmic axis.

    Never-seen captions (0 copies) have no place on it: they stand left of a gap.
    """
    height, top, bottom, left = 328, 28, 270, 52
    seen = sorted({copies for copies, _ in marks if copies > 0})
    apart = any(copies == 0 for copies, _ in marks)
    start = left + (66 if apart else 24)
    logs = [math.log10(copies) for copies in seen] or [0.0, 1.0]
    first, last = min(logs), max(logs)
    x = Scale(first, last if last > first else first + 1, start, width - 28)
    y = Scale(0.0, 1.0, bottom, top)
    parts = [_y_axis(y, left, width - 10)]
    if apart and seen:
        parts.append(_line("grid", start - 22, top, start - 22, bottom, dashes="3 4"))
    parts.append(_text(12, 12, axis, "quiet"))
    parts.append(_text(left - 8, bottom + 35, "n", "end quiet"))
    previous: tuple[float, float] | None = None
    for copies, mark in sorted(marks, key=lambda pair: pair[0]):
        at = left + 24 if copies == 0 else x(math.log10(copies))
        parts += [
            _line("axis", at, bottom, at, bottom + 5),
            _text(at, bottom + 19, f"{copies:,}", "middle"),
            _text(at, bottom + 35, f"{mark.n:,}", "middle quiet"),
        ]
        if mark.estimate is None:
            continue
        point = (at, y(mark.estimate))
        if previous is not None and copies > 0:
            parts.insert(1, _line("curve", *previous, *point, group="series-0"))
        previous = point if copies > 0 else None
        body = ""
        if mark.low is not None and mark.high is not None:
            body = _line("interval", at, y(mark.low), at, y(mark.high))
        parts.append(_point("series-0", mark, point, body))
    parts.append(_line("axis", left, bottom, width - 10, bottom))
    parts.append(
        _text((left + width) / 2, height - 4, "copies in the training data (log scale)", "middle")
    )
    said = "; ".join(f"{copies} copies: {_said(mark, _percent)}" for copies, mark in marks)
    return _svg(name, title, said, width, height, parts)


def roc(curves: Sequence[Curve], *, name: str, title: str, width: int = 560) -> str:
    """True-positive against false-positive rate, with the diagonal of chance."""
    top, left, side = 24, 52, min(300, width - 80)
    bottom, right = top + side, left + side
    x, y = Scale(0.0, 1.0, left, right), Scale(0.0, 1.0, bottom, top)
    parts = [_y_axis(y, left, right), _text(12, 12, "restricted images blocked", "quiet")]
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(_line("grid", x(tick), top, x(tick), bottom))
        parts.append(_text(x(tick), bottom + 19, _percent(tick), "middle"))
    parts.append(_line("axis", left, bottom, right, top, dashes="3 4"))
    height = bottom + 46
    parts.append(_text((left + right) / 2, bottom + 38, "harmless images blocked", "middle quiet"))
    for index, curve in enumerate(curves):
        group, dashes = f"series-{index % 4}", _DASHES[index % 4]
        line = " ".join(f"{_px(x(fpr))},{_px(y(tpr))}" for fpr, tpr in curve.points)
        dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
        parts.append(f'<g class="{group}"><polyline class="curve" points="{line}"{dashed}/></g>')
        below = bottom + 64 + 20 * index
        parts.append(_line("curve", left, below - 4, left + 30, below - 4, dashes, group))
        parts.append(_text(left + 38, below, curve.label, ""))
        height = below + 10
    said = "; ".join(curve.label for curve in curves)
    return _svg(
        name,
        title,
        f"Restricted images blocked against harmless images blocked. {said}",
        width,
        height,
        parts,
    )


def _rows(
    marks: Sequence[Mark],
    name: str,
    title: str,
    show: Callable[[float], str],
    axis: str,
    domain: tuple[float, float],
    width: int,
    stem: float | None,
) -> str:
    wide = width > NARROW
    row, top = (24, 34) if wide else (42, 34)
    longest = max((len(mark.label) for mark in marks), default=0)
    left, right = (min(206, 30 + 7.3 * longest), width - 250) if wide else (16, width - 18)
    x = Scale(*domain, left, right)
    bottom = top + row * len(marks)
    parts = [_legend(marks, left if wide else 4, wide)]
    for tick in _ticks(*domain, most=6 if wide else 5):
        parts.append(_line("grid", x(tick), top, x(tick), bottom))
        parts.append(_text(x(tick), bottom + 16, _round(show(tick)), "middle quiet"))
    if stem is not None:
        parts.append(_line("axis", x(stem), top, x(stem), bottom))
    for index, mark in enumerate(marks):
        above = top + row * index
        middle = above + (row / 2 if wide else 29)
        if wide:
            parts.append(_text(left - 12, middle + 4, _short(mark.label, 25), "end", mark.label))
            parts.append(_text(right + 14, middle + 4, _said(mark, show), ""))
        else:
            parts.append(_text(4, above + 15, _short(mark.label, 18), "", mark.label))
            parts.append(_text(width - 4, above + 15, _said(mark, show), "end quiet"))
        if mark.estimate is None:
            continue
        body = ""
        if stem is not None:
            body += _line("stem", x(stem), middle, x(mark.estimate), middle)
        if mark.low is not None and mark.high is not None:
            body += _line("interval", x(mark.low), middle, x(mark.high), middle)
        if mark.reference is not None and stem is None:
            at = x(mark.reference)
            parts.append(_line("reference", at, middle - 8, at, middle + 8))
        parts.append(_point(mark.verdict, mark, (x(mark.estimate), middle), body))
    parts.append(_text((left + right) / 2, bottom + 36, axis, "middle"))
    said = "; ".join(
        f"{mark.label}: {_said(mark, show)}"
        + ("" if mark.reference is None else f", reference {show(mark.reference)}")
        + ("" if mark.estimate is None else f", {mark.verdict}")
        for mark in marks
    )
    return _svg(name, title, said, width, bottom + 46, parts)


def _legend(marks: Sequence[Mark], left: float, wide: bool) -> str:
    used = {mark.verdict for mark in marks if mark.estimate is not None}
    parts, at = [], left
    for verdict, label in _SHOWN.items():
        if verdict in used:
            parts.append(f'<g class="{verdict}">{_shape(verdict, at + 6, 14)}</g>')
            parts.append(_text(at + 17, 18, label, ""))
            at += 32 + 6.8 * len(label)
    if any(mark.reference is not None for mark in marks):
        parts.append(_line("reference", at + 6, 7, at + 6, 21))
        parts.append(_text(at + 14, 18, "reference", ""))
    return "".join(parts)


def _point(group: str, mark: Mark, at: tuple[float, float], body: str) -> str:
    if mark.estimate is None:
        return ""
    kept = group if group in _SHOWN or group.startswith("series-") else "inconclusive"
    return (
        f'<g class="point {kept}" data-estimate="{mark.estimate!r}" data-n="{mark.n}">'
        f"{body}{_shape(kept, *at)}</g>"
    )


def _shape(verdict: str, x: float, y: float) -> str:
    """A diamond where the verdict is ``exceeds``, else a circle; both say their centre."""
    if verdict == "exceeds":
        corners = f"M{_px(x)} {_px(y - 6)}l6 6-6 6-6-6z"
        return f'<path class="shape" d="{corners}" data-cx="{_px(x)}" data-cy="{_px(y)}"/>'
    return f'<circle class="shape" cx="{_px(x)}" cy="{_px(y)}" r="4.6"/>'


def _y_axis(y: Scale, left: float, right: float) -> str:
    parts = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(_line("grid", left, y(tick), right, y(tick)))
        parts.append(_text(left - 8, y(tick) + 4, _percent(tick), "end"))
    return "".join(parts)


def _said(mark: Mark, show: Callable[[float], str]) -> str:
    if mark.estimate is None:
        return "not measured"
    interval = ""
    if mark.low is not None and mark.high is not None:
        interval = f" ({show(mark.low)} to {show(mark.high)})"
    return f"{show(mark.estimate)}{interval} n {mark.n:,}"


def _domain(marks: Sequence[Mark], include: Sequence[float]) -> tuple[float, float]:
    values = [*include]
    for mark in marks:
        held = (mark.estimate, mark.low, mark.high, mark.reference)
        values += [value for value in held if value is not None]
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = (high - low) * 0.05 or max(abs(high), 1.0) * 0.05
    return low - room, high + room


def _ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers inside the domain: steps of 1, 2, 2.5 or 5 times a power of ten."""
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def _round(shown: str) -> str:
    """A tick without decimals that say nothing."""
    return re.sub(r"(\.\d*?)0+(?!\d)", r"\1", shown).replace(".%", "%").rstrip(".")


def _percent(value: float) -> str:
    return f"{100 * value:.3g}%"


def _short(label: str, most: int) -> str:
    return label if len(label) <= most else label[: most - 1].rstrip() + "…"


def _px(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _line(
    kind: str, x1: float, y1: float, x2: float, y2: float, dashes: str = "", group: str = ""
) -> str:
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    ends = f'x1="{_px(x1)}" y1="{_px(y1)}" x2="{_px(x2)}" y2="{_px(y2)}"'
    line = f'<line class="{kind}" {ends}{dashed}/>'
    return f'<g class="{group}">{line}</g>' if group else line


def _text(x: float, y: float, content: str, kind: str, whole: str = "") -> str:
    tip = f"<title>{escape(whole)}</title>" if whole and whole != content else ""
    return (
        f'<text x="{_px(x)}" y="{_px(y)}"{f" class={quoteattr(kind)}" if kind else ""}>'
        f"{escape(content)}{tip}</text>"
    )


def _svg(
    name: str, title: str, said: str, width: float, height: float, parts: Sequence[str]
) -> str:
    return (
        f'<svg class="figure" xmlns="http://www.w3.org/2000/svg" role="img" '
        f'viewBox="0 0 {_px(width)} {_px(height)}" width="{_px(width)}" height="{_px(height)}" '
        f'aria-labelledby="{name}-title {name}-desc"><title id="{name}-title">{escape(title)}'
        f'</title><desc id="{name}-desc">{escape(said)}</desc>{"".join(parts)}</svg>'
    )
