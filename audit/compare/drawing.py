"""A forest plot of changes: zero, the margin of each row, the change with its interval."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from audit.card import strokes as draw
from audit.card.strokes import Mark, Scale

WIDE, NARROW = 900, 350


@dataclass(frozen=True)
class Line:
    """One change.

    Attributes:
        mark: its label, estimate, interval and verdict.
        values: the two values, as printed.
        margin: the change that does not count; 0: none is drawn.
    """

    mark: Mark
    values: str
    margin: float


def changes(
    lines: Sequence[Line],
    *,
    name: str,
    title: str,
    show: Callable[[float], str],
    axis: str,
    width: int = WIDE,
) -> str:
    """Changes, one line each, around the line of no change.

    Args:
        name: unique on the page; ids are made of it.
        show: prints a difference.
        width: at :data:`NARROW` label and figures stand above the line.
    """
    wide = width > NARROW
    row, top = (25, 38) if wide else (58, 38)
    longest = max((len(line.mark.label) for line in lines), default=0)
    left, right = (min(372, 26 + 6.9 * longest), width - 200) if wide else (16, width - 18)
    low, high = _domain(lines)
    x = Scale(low, high, left, right)
    bottom = top + row * len(lines)
    parts = [_legend(lines, left if wide else 4, wide)]
    for tick in draw.ticks(low, high, most=6 if wide else 4):
        parts.append(draw.line("grid", x(tick), top, x(tick), bottom))
        shown = draw.rounded(show(tick)) if abs(tick) > 1e-12 else "0"
        parts.append(draw.text(x(tick), bottom + 16, shown, "middle quiet"))
    for index, line in enumerate(lines):
        above = top + row * index
        middle = above + (row / 2 if wide else 45)
        parts.append(_band(x, line.margin, middle))
        said = _said(line, show)
        if wide:
            label = draw.short(line.mark.label, 52)
            parts.append(draw.text(left - 12, middle + 4, label, "end", line.mark.label))
            parts.append(draw.text(right + 14, middle + 4, said, ""))
        else:
            label = draw.short(line.mark.label, 50)
            parts.append(draw.text(4, above + 13, label, "", line.mark.label))
            parts.append(draw.text(4, above + 29, f"{line.values}; {said}", "quiet"))
        if line.mark.estimate is None:
            continue
        body = ""
        if line.mark.low is not None and line.mark.high is not None:
            body = draw.line("interval", x(line.mark.low), middle, x(line.mark.high), middle)
        at = (x(line.mark.estimate), middle)
        parts.append(draw.point(line.mark.verdict, line.mark, at, body))
    parts.insert(1, draw.line("axis", x(0.0), top - 4, x(0.0), bottom))
    parts.append(draw.text((left + right) / 2, bottom + 36, axis, "middle"))
    everything = "; ".join(
        f"{line.mark.label}: {line.values}, change {_said(line, show)}, {line.mark.verdict}"
        for line in lines
    )
    return draw.svg(name, title, everything, width, bottom + 46, parts)


def _said(line: Line, show: Callable[[float], str]) -> str:
    mark = line.mark
    if mark.estimate is None:
        return "not measured"
    if mark.low is None or mark.high is None:
        return show(mark.estimate)
    return f"{show(mark.estimate)} ({show(mark.low)} to {show(mark.high)})"


def _band(x: Scale, margin: float, middle: float) -> str:
    if margin <= 0:
        return ""
    start, end = (min(max(x(edge), x.start), x.end) for edge in (-margin, margin))
    return (
        f'<rect class="margin" x="{draw.px(start)}" y="{draw.px(middle - 7)}" '
        f'width="{draw.px(end - start)}" height="14"/>'
    )


def _domain(lines: Sequence[Line]) -> tuple[float, float]:
    values = [0.0]
    for line in lines:
        held = (line.mark.estimate, line.mark.low, line.mark.high)
        values += [value for value in held if value is not None]
    widest = max(abs(min(values)), abs(max(values)))
    values += [edge for line in lines for edge in (-line.margin, line.margin)
               if line.margin < 3 * widest]  # fmt: skip
    low, high = min(values), max(values)
    room = (high - low) * 0.04 or 1.0
    return low - room, high + room


def _legend(lines: Sequence[Line], left: float, wide: bool) -> str:
    used = {line.mark.verdict for line in lines if line.mark.estimate is not None}
    words = {"exceeds": "beyond the margin", "within": "within", "inconclusive": "inconclusive"}
    parts, at = [], left
    for verdict, label in words.items():
        if verdict in used:
            parts.append(f'<g class="{verdict}">{draw.shape(verdict, at + 6, 14)}</g>')
            parts.append(draw.text(at + 17, 18, label, ""))
            at += 34 + 7.1 * len(label)
    if wide and any(line.margin > 0 for line in lines):
        parts.append(f'<rect class="margin" x="{draw.px(at)}" y="7" width="22" height="14"/>')
        parts.append(draw.text(at + 29, 18, "margin", ""))
    return "".join(parts)
