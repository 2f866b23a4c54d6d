"""Figures of watermarks: detection against the strength of attacks, and false alarms as promised
against false alarms as they are."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from . import strokes as draw
from .blocks import Block, Figure
from .content import Card
from .documents import finite
from .figures import NARROW
from .strokes import Mark, Scale
from .wording import clean, decimal

PANELS = 760
"""Width in pixels of the small multiples; at :data:`NARROW` they stand one below the other."""
_DASHES = ("", "7 4", "2 4", "9 3 2 3")
_LEFT, _PANEL, _HIGH = 46, 178, 118


@dataclass(frozen=True)
class Panel:
    """One attack: its strengths, the weakest first, and for each mark a point at each strength.

    Attributes:
        title: the attack.
        ticks: the strengths as they are printed; the first may be ``none``.
        curves: mark → a :class:`Mark` per tick; one without an estimate breaks the line.
    """

    title: str
    ticks: Sequence[str]
    curves: dict[str, Sequence[Mark]]


def attack_curves(panels: Sequence[Panel], *, name: str, title: str, width: int = PANELS) -> str:
    """True-positive rate against the strength of each attack: a panel an attack, a line a mark."""
    across = max(1, (width - _LEFT) // _PANEL)
    marks = list(dict.fromkeys(mark for panel in panels for mark in panel.curves))
    parts, at = [], float(_LEFT)
    for index, mark in enumerate(marks):
        group, dashes = _style(index)
        if index and at + 46 + 6.8 * len(mark) > width:
            break  # the table names the rest
        parts.append(draw.line("curve", at, 14, at + 24, 14, dashes, group))
        parts.append(draw.text(at + 30, 18, mark, ""))
        at += 46 + 6.8 * len(mark)
    for number, panel in enumerate(panels):
        left = _LEFT + _PANEL * (number % across)
        top = 50 + (_HIGH + 52) * (number // across)
        parts += _panel(panel, marks, left, top, labelled=number % across == 0)
    rows = math.ceil(len(panels) / across)
    said = "; ".join(
        f"{panel.title}, {mark}: "
        + ", ".join(
            f"{tick} {draw.said(point, draw.percent)}"
            for tick, point in zip(panel.ticks, points, strict=True)
        )
        for panel in panels
        for mark, points in panel.curves.items()
    )
    return draw.svg(name, title, said, width, 50 + (_HIGH + 52) * rows, parts)


def _panel(
    panel: Panel, marks: Sequence[str], left: float, top: float, labelled: bool
) -> list[str]:
    right, bottom = left + _PANEL - 24, top + _HIGH
    x = Scale(0, max(1, len(panel.ticks) - 1), left + 12, right - 12)
    y = Scale(0.0, 1.0, bottom, top)
    parts = [draw.text(left, top - 8, panel.title, "")]
    for share in (0.0, 0.5, 1.0):
        parts.append(draw.line("grid", left, y(share), right, y(share)))
        if labelled:
            parts.append(draw.text(left - 6, y(share) + 4, draw.percent(share), "end quiet"))
    for place, tick in enumerate(panel.ticks):
        parts.append(draw.text(x(place), bottom + 17, tick, "middle quiet"))
    for mark, points in panel.curves.items():
        group, dashes = _style(marks.index(mark))
        aside = _aside(marks.index(mark), len(marks), 5)
        before: tuple[float, float] | None = None
        for place, point in enumerate(points):
            if point.estimate is None:
                before = None
                continue
            here = (x(place) + aside, y(point.estimate))
            if before is not None:
                parts.append(draw.line("curve", *before, *here, dashes, group))
            body = ""
            if point.low is not None and point.high is not None:
                body = draw.line("interval", here[0], y(point.low), here[0], y(point.high))
            parts.append(draw.point(group, point, here, body))
            before = here
    return parts


def promised_and_realised(
    marks: dict[str, Sequence[tuple[float, Mark]]], *, name: str, title: str, width: int = 560
) -> str:
    """Realised against nominal false-positive rate, both logarithmic, with the line of equality.

    A rate of which no event was seen has no place on a logarithm: it stands on the lower edge, and
    its interval says what it may be.

    Args:
        marks: mark → (nominal rate, the realised one).
    """
    rates = [rate for points in marks.values() for rate, _ in points]
    least = min(rates, default=0.01)
    floor = 10.0 ** (math.floor(math.log10(least)) - 1)
    top, left = 24, 66
    side = min(300, width - left - 24)
    x = Scale(math.log10(floor), 0.0, left, left + side)
    y = Scale(math.log10(floor), 0.0, top + side, top)
    parts = [draw.text(12, 12, "realised false-positive rate", "quiet")]
    for power in range(round(math.log10(floor)), 1):
        shown = draw.percent(10.0**power) if power > round(math.log10(floor)) else "0"
        parts.append(draw.line("grid", left, y(power), left + side, y(power)))
        parts.append(draw.text(left - 8, y(power) + 4, shown, "end"))
        if shown != "0":
            parts.append(draw.line("grid", x(power), top, x(power), top + side))
            parts.append(draw.text(x(power), top + side + 19, shown, "middle"))
    parts.append(draw.line("axis", left, top + side, left + side, top, dashes="3 4"))
    parts.append(draw.text(left + side / 2, top + side + 38, "promised", "middle quiet"))
    height = top + side + 46.0
    for index, (mark, points) in enumerate(marks.items()):
        group, dashes = _style(index)
        aside = _aside(index, len(marks), 9)
        for rate, point in points:
            if point.estimate is None:
                continue
            here = (x(math.log10(rate)) + aside, y(math.log10(max(point.estimate, floor))))
            body = ""
            if point.low is not None and point.high is not None:
                low, high = (math.log10(max(bound, floor)) for bound in (point.low, point.high))
                body = draw.line("interval", here[0], y(low), here[0], y(high))
            parts.append(draw.point(group, point, here, body))
        below = top + side + 64 + 20 * index
        parts.append(draw.line("curve", left, below - 4, left + 30, below - 4, dashes, group))
        parts.append(draw.text(left + 38, below, mark, ""))
        height = below + 10.0
    said = "; ".join(
        f"{mark}: promised {draw.percent(rate)}, realised {draw.said(point, draw.percent)}"
        for mark, points in marks.items()
        for rate, point in points
    )
    return draw.svg(name, title, said, width, height, parts)


def panels(frame: pd.DataFrame, fpr: float) -> list[Panel]:
    """Panels of a table of attacks.

    Args:
        frame: a row per mark, attack, strength and rate: ``mark``, ``attack`` (``none`` for the
            marks as they were set), ``strength``, ``fpr``, ``tpr``, ``low``, ``high``, ``n``.
        fpr: the rate to draw.
    """
    chosen = frame[frame["fpr"] == fpr]
    base = chosen[chosen["attack"] == "none"]
    found = []
    for attack, rows in chosen[chosen["attack"] != "none"].groupby("attack", sort=False):
        # In the order of the mark that was tried at the most of them: the weakest first.
        tried = [
            list(dict.fromkeys(own)) for _, own in rows.groupby("mark", sort=False)["strength"]
        ]
        strengths = list(dict.fromkeys(at for own in sorted(tried, key=len)[::-1] for at in own))
        curves: dict[str, Sequence[Mark]] = {}
        for mark in dict.fromkeys(rows["mark"]):
            own = rows[rows["mark"] == mark].set_index("strength")
            whole = base[base["mark"] == mark]
            points = [_mark(whole.iloc[0] if len(whole) else None, "none")]
            points += [
                _mark(own.loc[at] if at in own.index else None, decimal_of(at)) for at in strengths
            ]
            curves[clean(mark)] = points
        found.append(Panel(clean(attack), ["none", *map(decimal_of, strengths)], curves))
    return found


def decimal_of(strength: object) -> str:
    """A strength as it is printed below its point."""
    value = finite(strength)
    return clean(strength) if value is None else f"{value:g}"


def blocks(card: Card) -> Iterator[Block]:
    """Both figures, where the run has their tables."""
    curves = card.tables.get("watermarks.robustness")
    if curves is not None and (curves["attack"] != "none").any():
        yield _robustness(curves.rename(columns={"codec": "mark"}))
    null = card.tables.get("watermarks.null")
    if null is not None:
        yield _null(null)


def _robustness(frame: pd.DataFrame) -> Figure:
    fpr = float(frame["fpr"].min())
    drawn = panels(frame, fpr)
    title = "Marks found, by attack and strength"
    wide, narrow = (
        attack_curves(drawn, name=f"attacks-{width}", title=title, width=width)
        for width in (PANELS, NARROW)
    )
    caption = (
        f"{title}: share of marked images whose mark is found at a nominal false-positive rate of "
        f"{fpr:g}, with its interval. Each panel is an attack, from none to its strongest; a mark "
        "that falls to 0 is gone, and its absence says nothing of where an image comes from."
    )
    return Figure(wide, narrow, caption)


def _null(frame: pd.DataFrame) -> Figure:
    marks: dict[str, Sequence[tuple[float, Mark]]] = {}
    for codec, rows in frame.groupby("codec", sort=False):
        marks[clean(codec)] = [
            (float(row["nominal"]), _mark(row, "", "realised"))
            for _, row in rows.sort_values("nominal").iterrows()
        ]
    title = "False alarms on clean images: promised and realised"
    wide, narrow = (
        promised_and_realised(marks, name=f"false-alarms-{width}", title=title, width=width)
        for width in (560, NARROW)
    )
    n = int(frame["n"].max())
    caption = (
        f"{title}, of {n:,} images that nobody marked. On the dashed line the binomial p-value "
        "keeps its promise; above it, it fires more often. Points on the lower edge: no event, and "
        f"the line above says what the rate may be. {n:,} images show nothing below "
        f"{decimal(1 / (n + 1))}."
    )
    return Figure(wide, narrow, caption)


def _mark(row: pd.Series | None, label: str, value: str = "tpr") -> Mark:
    if row is None:
        return Mark(label, None)
    return Mark(
        label,
        finite(row[value]),
        finite(row["low"]),
        finite(row["high"]),
        int(finite(row["n"]) or 0),
    )


def _aside(index: int, count: int, step: float) -> float:
    """Pixels by which a series is moved: equal points would hide each other."""
    return (index - (count - 1) / 2) * min(step, 24 / max(1, count))


def _style(index: int) -> tuple[str, str]:
    return f"series-{index % 4}", _DASHES[index % 4]
