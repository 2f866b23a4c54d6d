"""The figure and the table of the probe `quality`: following the prompt against being near to
pictures, at every setting."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from . import strokes as draw
from .blocks import Block, Figure, Row, Table, count, number, text
from .content import Card
from .documents import finite
from .figures import NARROW
from .strokes import Scale
from .wording import decimal

WIDE = 560
_DASHES = ("", "7 4", "2 4", "9 3 2 3")


@dataclass(frozen=True)
class Setting:
    """One setting: where it stands, its intervals, and whether no other beats it in both.

    Attributes:
        alignment, distance: (low, estimate, high); a bound may be missing.
    """

    guidance: float
    steps: int
    alignment: tuple[float | None, float, float | None]
    distance: tuple[float | None, float, float | None]
    n: int
    best: bool


def pareto(settings: Sequence[Setting], *, name: str, title: str, width: int = WIDE) -> str:
    """Distance (down) against alignment (across), a line for each number of steps; settings on the
    Pareto front are filled, and intervals are drawn at all."""
    top, left, right, bottom = 34, 62, width - 20, 300
    x = Scale(*_ends([s.alignment for s in settings]), left, right)
    y = Scale(*_ends([s.distance for s in settings]), bottom, top)
    parts = [draw.text(8, 14, "distance (CMMD); lower is nearer", "quiet")]
    for tick in draw.ticks(x.low, x.high, 5):
        parts.append(draw.line("grid", x(tick), top, x(tick), bottom))
        parts.append(draw.text(x(tick), bottom + 18, draw.rounded(decimal(tick)), "middle"))
    for tick in draw.ticks(y.low, y.high, 5):
        parts.append(draw.line("grid", left, y(tick), right, y(tick)))
        parts.append(draw.text(left - 8, y(tick) + 4, draw.rounded(decimal(tick)), "end"))
    middle = (left + right) / 2
    parts.append(draw.text(middle, bottom + 38, "alignment (cosine); right is better", "middle"))
    height = bottom + 50
    for series, steps in enumerate(sorted({s.steps for s in settings})):
        own = sorted((s for s in settings if s.steps == steps), key=lambda s: s.guidance)
        group, dashes = f"series-{series % 4}", _DASHES[series % 4]
        at = [(x(s.alignment[1]), y(s.distance[1])) for s in own]
        for (x1, y1), (x2, y2) in pairwise(at):
            parts.append(draw.line("curve", x1, y1, x2, y2, dashes, group))
        for setting, point in zip(own, at, strict=True):
            # Its scale stands above, or below where another point is close above.
            crowded = any(abs(point[0] - c) < 30 and 0 < point[1] - d < 24 for c, d in at)
            parts.append(_point(setting, point, group, x, y, 18 if crowded else -7))
        height += 20
        parts.append(draw.line("curve", left, height - 14, left + 30, height - 14, dashes, group))
        parts.append(draw.text(left + 38, height - 10, f"{steps} steps", ""))
    said = "; ".join(
        f"guidance {s.guidance:g}, {s.steps} steps: alignment {decimal(s.alignment[1])}, distance "
        f"{decimal(s.distance[1])}{', on the front' if s.best else ''}"
        for s in settings
    )
    return draw.svg(name, title, said, width, height, parts)


def blocks(card: Card) -> Iterator[Block]:
    """The figure and its table, where the run has a reference set."""
    frame = card.tables.get("quality.front")
    if frame is None:
        return
    settings = []
    for row in frame.to_dict("records"):
        held = [
            tuple(finite(row.get(f"{metric}{end}")) for end in ("_low", "", "_high"))
            for metric in ("alignment", "cmmd")
        ]
        guidance, (alignment, distance) = finite(row["guidance"]), held
        if guidance is None or alignment[1] is None or distance[1] is None:
            continue
        settings.append(
            Setting(
                guidance,
                int(row["steps"]),
                (alignment[0], alignment[1], alignment[2]),
                (distance[0], distance[1], distance[2]),
                int(row["n"]),
                bool(row["best"]),
            )
        )
    if not settings:
        return
    title = "Following the prompt against being near to pictures, by guidance scale"
    wide, narrow = (
        pareto(settings, name=f"pareto-{width}", title=title, width=width)
        for width in (WIDE, NARROW)
    )
    caption = (
        f"{title}; each point says its scale. Filled: no other setting is better in one of the two "
        "and as good in the other, by the estimates alone. Lines through a point: intervals."
    )
    yield Figure(wide, narrow, caption)
    rows = [
        Row(
            [
                number(f"{s.guidance:g}", s.guidance),
                count(s.steps),
                number(decimal(s.alignment[1]), s.alignment[1]),
                number(decimal(s.distance[1]), s.distance[1]),
                count(s.n),
                text("yes" if s.best else ""),
            ]
        )
        for s in settings
    ]
    yield Table(
        "Settings",
        ["Guidance", "Steps", "Alignment", "CMMD", "n", "On the front"],
        rows,
        "The intervals stand below.",
    )


def _point(
    setting: Setting, at: tuple[float, float], group: str, x: Scale, y: Scale, above: float
) -> str:
    lines = ""
    if setting.alignment[0] is not None and setting.alignment[2] is not None:
        lines += draw.line(
            "interval", x(setting.alignment[0]), at[1], x(setting.alignment[2]), at[1]
        )
    if setting.distance[0] is not None and setting.distance[2] is not None:
        lines += draw.line("interval", at[0], y(setting.distance[0]), at[0], y(setting.distance[2]))
    shape = draw.shape("within", *at)
    # An empty point takes the class whose shapes are not filled, and keeps its series' colour.
    shape = shape if setting.best else f'<g class="inconclusive"><g class="{group}">{shape}</g></g>'
    label = draw.text(at[0] + 8, at[1] + above, f"{setting.guidance:g}", "")
    return (
        f'<g class="point {group}" data-alignment="{setting.alignment[1]!r}" '
        f'data-distance="{setting.distance[1]!r}" data-n="{setting.n}">'
        f'<g opacity=".35">{lines}</g>{shape}</g>{label}'
    )


def _ends(values: Sequence[tuple[float | None, float, float | None]]) -> tuple[float, float]:
    known = [value for held in values for value in held if value is not None]
    low, high = min(known), max(known)
    room = (high - low) * 0.06 or max(abs(high), 1.0) * 0.05
    return low - room, high + room
