"""Strokes of an SVG: lines, points, axes and words, drawn by the colours of the page.

Colours are those of Okabe and Ito (2008), as CSS variables that a dark page overrides; a verdict
also has its own shape, so that nothing depends on colour.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

STYLE = """
svg.figure { display: block; max-width: 100%; height: auto; font: 12.5px system-ui, sans-serif; }
svg.figure text { fill: var(--ink, #1b1f24); }
svg.figure text { stroke: var(--page, #fff); stroke-width: 4px; paint-order: stroke; }
svg.figure .quiet { fill: var(--quiet, #59636e); }
svg.figure .end { text-anchor: end; }
svg.figure .middle { text-anchor: middle; }
svg.figure .grid { stroke: var(--line, #d6dade); stroke-width: 1; }
svg.figure .axis { stroke: var(--quiet, #59636e); stroke-width: 1.2; }
svg.figure .margin { fill: var(--quiet, #59636e); opacity: .16; }
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

SHOWN = {"exceeds": "exceeds", "within": "within", "inconclusive": "inconclusive"}


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
class Scale:
    """A linear map of a domain onto pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def point(group: str, mark: Mark, at: tuple[float, float], body: str) -> str:
    if mark.estimate is None:
        return ""
    kept = group if group in SHOWN or group.startswith("series-") else "inconclusive"
    return (
        f'<g class="point {kept}" data-estimate="{mark.estimate!r}" data-n="{mark.n}">'
        f"{body}{shape(kept, *at)}</g>"
    )


def shape(verdict: str, x: float, y: float) -> str:
    """A diamond where the verdict is ``exceeds``, else a circle; both say their centre."""
    if verdict == "exceeds":
        corners = f"M{px(x)} {px(y - 6)}l6 6-6 6-6-6z"
        return f'<path class="shape" d="{corners}" data-cx="{px(x)}" data-cy="{px(y)}"/>'
    return f'<circle class="shape" cx="{px(x)}" cy="{px(y)}" r="4.6"/>'


def y_axis(y: Scale, left: float, right: float) -> str:
    parts = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(line("grid", left, y(tick), right, y(tick)))
        parts.append(text(left - 8, y(tick) + 4, percent(tick), "end"))
    return "".join(parts)


def said(mark: Mark, show: Callable[[float], str]) -> str:
    if mark.estimate is None:
        return "not measured"
    interval = ""
    if mark.low is not None and mark.high is not None:
        interval = f" ({show(mark.low)} to {show(mark.high)})"
    return f"{show(mark.estimate)}{interval} n {mark.n:,}"


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers inside the domain: steps of 1, 2, 2.5 or 5 times a power of ten."""
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def rounded(shown: str) -> str:
    """A tick without decimals that say nothing."""
    return re.sub(r"(\.\d*?)0+(?!\d)", r"\1", shown).replace(".%", "%").rstrip(".")


def percent(value: float) -> str:
    return f"{100 * value:.3g}%"


def short(label: str, most: int) -> str:
    return label if len(label) <= most else label[: most - 1].rstrip() + "…"


def px(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def line(
    kind: str, x1: float, y1: float, x2: float, y2: float, dashes: str = "", group: str = ""
) -> str:
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    ends = f'x1="{px(x1)}" y1="{px(y1)}" x2="{px(x2)}" y2="{px(y2)}"'
    line = f'<line class="{kind}" {ends}{dashed}/>'
    return f'<g class="{group}">{line}</g>' if group else line


def text(x: float, y: float, content: str, kind: str, whole: str = "") -> str:
    tip = f"<title>{escape(whole)}</title>" if whole and whole != content else ""
    return (
        f'<text x="{px(x)}" y="{px(y)}"{f" class={quoteattr(kind)}" if kind else ""}>'
        f"{escape(content)}{tip}</text>"
    )


def svg(name: str, title: str, said: str, width: float, height: float, parts: Sequence[str]) -> str:
    return (
        f'<svg class="figure" xmlns="http://www.w3.org/2000/svg" role="img" '
        f'viewBox="0 0 {px(width)} {px(height)}" width="{px(width)}" height="{px(height)}" '
        f'aria-labelledby="{name}-title {name}-desc"><title id="{name}-title">{escape(title)}'
        f'</title><desc id="{name}-desc">{escape(said)}</desc>{"".join(parts)}</svg>'
    )
