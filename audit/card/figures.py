"""Figures as SVG: pure functions from data to a string."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from . import strokes as draw
from .strokes import Mark, Scale

WIDE, NARROW = 760, 350
"""Widths in pixels of the two forms of a plot of rows."""


_DASHES = ("", "7 4", "2 4", "9 3 2 3")


@dataclass(frozen=True)
class Curve:
    """Points (x, y) in the order in which they are joined; x and y are shares."""

    label: str
    points: Sequence[tuple[float, float]]


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
        width: at :data:`NARROW` label and value stand above their line.
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
    parts = [draw.y_axis(y, left, width - 10)]
    if apart and seen:
        parts.append(draw.line("grid", start - 22, top, start - 22, bottom, dashes="3 4"))
    parts.append(draw.text(12, 12, axis, "quiet"))
    parts.append(draw.text(left - 8, bottom + 35, "n", "end quiet"))
    previous: tuple[float, float] | None = None
    for copies, mark in sorted(marks, key=lambda pair: pair[0]):
        at = left + 24 if copies == 0 else x(math.log10(copies))
        parts += [
            draw.line("axis", at, bottom, at, bottom + 5),
            draw.text(at, bottom + 19, f"{copies:,}", "middle"),
            draw.text(at, bottom + 35, f"{mark.n:,}", "middle quiet"),
        ]
        if mark.estimate is None:
            continue
        point = (at, y(mark.estimate))
        if previous is not None and copies > 0:
            parts.insert(1, draw.line("curve", *previous, *point, group="series-0"))
        previous = point if copies > 0 else None
        body = ""
        if mark.low is not None and mark.high is not None:
            body = draw.line("interval", at, y(mark.low), at, y(mark.high))
        parts.append(draw.point("series-0", mark, point, body))
    parts.append(draw.line("axis", left, bottom, width - 10, bottom))
    parts.append(
        draw.text(
            (left + width) / 2, height - 4, "copies in the training data (log scale)", "middle"
        )
    )
    said = "; ".join(f"{copies} copies: {draw.said(mark, draw.percent)}" for copies, mark in marks)
    return draw.svg(name, title, said, width, height, parts)


def roc(curves: Sequence[Curve], *, name: str, title: str, width: int = 560) -> str:
    """True-positive against false-positive rate, with the diagonal of chance."""
    x, y, parts = _square("harmless images blocked", "restricted images blocked", width)
    height = y(0.0) + 46
    for index, curve in enumerate(curves):
        group, dashes = f"series-{index % 4}", _DASHES[(index + index // 4) % 4]
        line = " ".join(f"{draw.px(x(fpr))},{draw.px(y(tpr))}" for fpr, tpr in curve.points)
        dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
        parts.append(f'<g class="{group}"><polyline class="curve" points="{line}"{dashed}/></g>')
        below = y(0.0) + 64 + 20 * index
        parts.append(draw.line("curve", x(0.0), below - 4, x(0.0) + 30, below - 4, dashes, group))
        parts.append(draw.text(x(0.0) + 38, below, curve.label, ""))
        height = below + 10
    said = "; ".join(curve.label for curve in curves)
    said = f"Restricted images blocked against harmless images blocked. {said}"
    return draw.svg(name, title, said, width, height, parts)


def against_reference(
    marks: Sequence[Mark], *, name: str, title: str, across: str, width: int = 560
) -> str:
    """Each estimate above its reference, both shares; on the diagonal they are equal.

    Marks without an estimate or a reference have no place and are left out.
    """
    x, y, parts = _square(across, "share of the images", width)
    shown = []
    for mark in marks:
        if mark.estimate is None or mark.reference is None:
            continue
        at = x(mark.reference)
        body = ""
        if mark.low is not None and mark.high is not None:
            body = draw.line("interval", at, y(mark.low), at, y(mark.high))
        parts.append(draw.point("series-0", mark, (at, y(mark.estimate)), body))
        there = draw.percent(mark.reference)
        shown.append(f"{mark.label}: {draw.said(mark, draw.percent)}, reference {there}")
    return draw.svg(name, title, "; ".join(shown), width, y(0.0) + 48, parts)


def _square(across: str, up: str, width: int) -> tuple[Scale, Scale, list[str]]:
    """Shares against shares: the axes, their words and the diagonal on which they are equal."""
    top, left, side = 24, 52, min(300, width - 80)
    x, y = Scale(0.0, 1.0, left, left + side), Scale(0.0, 1.0, top + side, top)
    parts = [draw.y_axis(y, left, left + side), draw.text(12, 12, up, "quiet")]
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(draw.line("grid", x(tick), top, x(tick), top + side))
        parts.append(draw.text(x(tick), top + side + 19, draw.percent(tick), "middle"))
    parts.append(draw.line("axis", left, top + side, left + side, top, dashes="3 4"))
    parts.append(draw.text(left + side / 2, top + side + 38, across, "middle quiet"))
    return x, y, parts


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
    longest = max((len(mark.label) for mark in marks), default=0)
    left, right = (min(240, 30 + 7.3 * longest), width - 250) if wide else (16, width - 18)
    # In the narrow form the label stands above its line, and where it is long above its value.
    beside = all(7 * len(mark.label + draw.said(mark, show)) < width - 18 for mark in marks)
    row, top = (24 if wide else 42 if beside else 58), 34
    x = Scale(*domain, left, right)
    bottom = top + row * len(marks)
    parts = [_legend(marks, left if wide else 4, wide)]
    for tick in draw.ticks(*domain, most=6 if wide else 5):
        parts.append(draw.line("grid", x(tick), top, x(tick), bottom))
        parts.append(draw.text(x(tick), bottom + 16, draw.rounded(show(tick)), "middle quiet"))
    if stem is not None:
        parts.append(draw.line("axis", x(stem), top, x(stem), bottom))
    for index, mark in enumerate(marks):
        above = top + row * index
        middle = above + (row / 2 if wide else row - 13)
        if wide:
            parts.append(
                draw.text(left - 12, middle + 4, draw.short(mark.label, 30), "end", mark.label)
            )
            parts.append(draw.text(right + 14, middle + 4, draw.said(mark, show), ""))
        else:
            parts.append(draw.text(4, above + 15, draw.short(mark.label, 46), "", mark.label))
            below, kind = (15, "end quiet") if beside else (31, "quiet")
            start = width - 4 if beside else 4
            parts.append(draw.text(start, above + below, draw.said(mark, show), kind))
        if mark.estimate is None:
            continue
        body = ""
        if stem is not None:
            body += draw.line("stem", x(stem), middle, x(mark.estimate), middle)
        if mark.low is not None and mark.high is not None:
            body += draw.line("interval", x(mark.low), middle, x(mark.high), middle)
        if mark.reference is not None and stem is None:
            at = x(mark.reference)
            parts.append(draw.line("reference", at, middle - 8, at, middle + 8))
        parts.append(draw.point(mark.verdict, mark, (x(mark.estimate), middle), body))
    parts.append(draw.text((left + right) / 2, bottom + 36, axis, "middle"))
    said = "; ".join(
        f"{mark.label}: {draw.said(mark, show)}"
        + ("" if mark.reference is None else f", reference {show(mark.reference)}")
        + ("" if mark.estimate is None else f", {mark.verdict}")
        for mark in marks
    )
    return draw.svg(name, title, said, width, bottom + 46, parts)


def _legend(marks: Sequence[Mark], left: float, wide: bool) -> str:
    used = {mark.verdict for mark in marks if mark.estimate is not None}
    parts, at = [], left
    for verdict, label in draw.SHOWN.items():
        if verdict in used:
            parts.append(f'<g class="{verdict}">{draw.shape(verdict, at + 6, 14)}</g>')
            parts.append(draw.text(at + 17, 18, label, ""))
            at += 32 + 6.8 * len(label)
    if any(mark.reference is not None for mark in marks):
        parts.append(draw.line("reference", at + 6, 7, at + 6, 21))
        parts.append(draw.text(at + 14, 18, "reference", ""))
    return "".join(parts)


def _domain(marks: Sequence[Mark], include: Sequence[float]) -> tuple[float, float]:
    values = [*include]
    for mark in marks:
        held = (mark.estimate, mark.low, mark.high, mark.reference)
        values += [value for value in held if value is not None]
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = (high - low) * 0.05 or max(abs(high), 1.0) * 0.05
    return low - room, high + room
