"""Findings as a forest plot: interval, reference and margin, the raw beside the corrected."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from html import escape

import pandas as pd
import streamlit as st

from audit.card import wording
from audit.findings import Finding

from . import charts, findings_table, parts
from .charts import Spec, alt

TONES = {
    "exceeds": "#D55E00",
    "inconclusive": "#E69F00",
    "within": "#009E73",
    "not_tested": "#8a8f98",
}
SHAPES = {
    "exceeds": "triangle-up",
    "inconclusive": "square",
    "within": "circle",
    "not_tested": "cross",
}
GREY = "#7f8896"
"""Of what is no verdict; it is seen on light and on dark."""
ROW = 26
"""Pixels a row."""
AROUND = 140
"""Pixels of legend and axis."""
PICKED = "row"
"""The name of the chart's selection."""
ROWS = "rows"
"""The name of its data."""

MEASURED = ("estimate", "low", "high", "raw", "reference")
"""Columns on the scale of the metric."""

Label = Callable[[Finding], str]


def show(
    findings: Sequence[Finding],
    label: Label,
    *,
    key: str = "",
    pick: Callable[[str], None] | None = None,
    titled: bool = True,
) -> None:
    """The plot, its key, and the same as a table; what has no estimate is in the table alone.

    Args:
        label: of a finding; labels of one plot differ.
        key: of the chart, where a row can be picked.
        pick: called with the label of a row that was clicked.
        titled: the axis names the metric, which no heading does.
    """
    drawn = [f for f in findings if f.estimate is not None]
    if drawn:
        spec, data = chart(drawn, label, picks=pick is not None, titled=titled)
        chosen = charts.draw(
            spec,
            {ROWS: data},
            width="stretch",
            height=AROUND - 24 * (not titled) + ROW * len(drawn),
            key=key or None,
            on_select="rerun" if pick else "ignore",
            alt=told(drawn, label),
        )
        if pick is not None:
            rows = getattr(getattr(chosen, "selection", None), PICKED, None) or []
            if rows and "label" in rows[0]:
                pick(str(rows[0]["label"]))
        st.html(_key(drawn))
    if findings:
        with st.expander("The same as a table, with the images behind each figure"):
            st.html(findings_table.table(list(findings)))


def frame(findings: Sequence[Finding], label: Label) -> pd.DataFrame:
    """What is drawn, a row for each finding with an estimate."""
    rows = []
    for f in findings:
        low, high = f.ci or (None, None)
        margin = f.threshold or 0.0
        rows.append(
            {
                "label": label(f),
                "estimate": f.estimate,
                "low": _finite(low),
                "high": _finite(high),
                "raw": f.raw if f.corrected_for else None,
                "reference": f.reference,
                "left": None if f.reference is None else f.reference - margin,
                "right": None if f.reference is None else f.reference + margin,
                "verdict": f.verdict if f.verdict in TONES else "inconclusive",
                "n": f.n,
            }
        )
    return pd.DataFrame(rows)


def chart(
    findings: Sequence[Finding], label: Label, *, picks: bool = False, titled: bool = True
) -> tuple[Spec, pd.DataFrame]:
    """The plot of findings of one metric, and its :data:`ROWS`."""
    data = frame(findings, label)
    metric = wording.metric(findings[0].metric)
    share = metric.show is wording.percent
    low, high = domain(data, share)
    # An open end, or a margin beyond what is drawn, ends at the edge.
    for name, edge in (("low", low), ("high", high)):
        where = data["estimate"].notna() & data[name].isna() & _has_ci(findings)
        data.loc[where, name] = edge
    for name in ("left", "right"):
        data[name] = data[name].astype(float).clip(low, high)
    kinds = tuple(kind for kind in TONES if kind in set(data["verdict"]))
    data["verdict"] = data["verdict"].map(lambda kind: parts.VERDICTS[kind][1])
    there = tuple(name for name in MEASURED if data[name].notna().any())
    return _chart(metric.label if titled else None, share, (low, high), kinds, there, picks), data


@lru_cache(maxsize=256)
def _chart(
    title: str | None,
    share: bool,
    ends: tuple[float, float],
    kinds: tuple[str, ...],
    there: tuple[str, ...],
    picks: bool,
) -> Spec:
    """`kinds`: the verdicts; `there`: which of :data:`MEASURED` the rows have."""
    y = alt.Y(
        "label:N",
        sort=None,
        title=None,
        axis=alt.Axis(labelLimit=230, labelOverlap=False, ticks=False),
    )
    scale = alt.Scale(domain=list(ends), nice=False)
    axis = alt.Axis(format="%" if share else "~g", tickCount=6)

    def x(field: str) -> alt.X:
        return alt.X(f"{field}:Q", title=title, scale=scale, axis=axis)

    words = [parts.VERDICTS[kind][1] for kind in kinds]
    legend = alt.Legend(title=None, orient="top", symbolSize=110)
    colour = alt.Color(
        "verdict:N", scale=alt.Scale(domain=words, range=[TONES[k] for k in kinds]), legend=legend
    )
    shape = alt.Shape(
        "verdict:N", scale=alt.Scale(domain=words, range=[SHAPES[k] for k in kinds]), legend=legend
    )
    number = ".1%" if share else ".4~g"
    tips = [
        alt.Tooltip("label:N", title=" "),
        *(alt.Tooltip(f"{name}:Q", format=number) for name in there),
        alt.Tooltip("verdict:N"),
        alt.Tooltip("n:Q", format=",", title="images"),
    ]
    base = charts.named(ROWS).encode(y=y, tooltip=tips)
    layers = []
    if "reference" in there:
        layers.append(
            base.mark_bar(color=GREY, opacity=0.22, size=ROW - 4).encode(x("left"), x2="right")
        )
        layers.append(base.mark_tick(color=GREY, thickness=2, size=ROW - 4).encode(x("reference")))
    layers.append(base.mark_rule(strokeWidth=3.5).encode(x("low"), x2="high", color=colour))
    points = base.mark_point(filled=True, size=110, opacity=1).encode(
        x("estimate"), color=colour, shape=shape
    )
    if picks:
        points = points.add_params(
            alt.selection_point(name=PICKED, fields=["label"], on="click", clear="dblclick")
        )
    layers.append(points)
    if "raw" in there:
        layers.append(
            base.mark_point(
                shape="diamond", filled=False, size=90, strokeWidth=2, color=GREY
            ).encode(x("raw"))
        )
    return charts.specification(alt.layer(*layers))


def domain(data: pd.DataFrame, share: bool) -> tuple[float, float]:
    """The ends of the axis: everything that is measured, and the reference."""
    values = [v for name in MEASURED for v in data[name].dropna().astype(float) if math.isfinite(v)]
    low, high = min(values), max(values)
    room = (high - low) * 0.06 or 0.05
    low, high = low - room, high + room
    return (max(0.0, low), min(1.0, high)) if share else (low, high)


def told(findings: Sequence[Finding], label: Label) -> str:
    """The plot in words."""
    metric = wording.metric(findings[0].metric)
    rows = []
    for f in findings:
        said = f"{label(f)}: {metric.show(f.estimate or 0.0)}"
        if f.ci:
            said += f" ({' to '.join(_bound(b, metric.show) for b in f.ci)})"
        rows.append(f"{said}, {parts.VERDICTS.get(f.verdict, ('', f.verdict))[1]}")
    return f"{metric.label}. {'; '.join(rows)}"


def _key(findings: Sequence[Finding]) -> str:
    said = ["line: interval"]
    if any(f.reference is not None for f in findings):
        names = dict.fromkeys(f.reference_name for f in findings if f.reference_name)
        name = next(iter(names)) if len(names) == 1 else ""
        said.append(f"upright stroke: reference{f' ({name})' if name else ''}")
    if any(f.threshold for f in findings):
        said.append("grey band: margin that does not count")
    if any(f.corrected_for and f.raw is not None for f in findings):
        said.append("hollow diamond: raw, before the correction")
    level = findings[0].level
    text = "; ".join(said).replace("line: interval", f"line: {level:.0%} interval")
    return f'<p class="t2i-key">{escape(text[:1].upper() + text[1:])}.</p>'


def _has_ci(findings: Sequence[Finding]) -> pd.Series:
    return pd.Series([f.ci is not None for f in findings])


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _bound(value: float, say: Callable[[float], str]) -> str:
    return say(value) if math.isfinite(value) else ("∞" if value > 0 else "−∞")
