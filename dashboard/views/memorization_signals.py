"""Two signals of every caption or image, and a threshold on the first that a reader moves."""

from __future__ import annotations

from html import escape
from typing import Any

import altair as alt
import duckdb
import pandas as pd
import streamlit as st

from dashboard import address, bars, memorized, parts
from dashboard.memorized import CAPTIONS, LOW, Beyond
from dashboard.queries import Catalog
from dashboard.threshold import slider

TONES = {
    "memorized": ("#D55E00", "triangle-up"),
    "copied": ("#D55E00", "triangle-up"),
    "not memorized": ("#2E86C1", "circle"),
    "not copied": ("#2E86C1", "circle"),
    "unknown": ("#7f8896", "square"),
}
RATES = {"memorized": "True-positive rate", "not memorized": "False-positive rate"}
LISTED = 12


def show(database: duckdb.DuckDBPyConnection, views: Catalog) -> None:
    """The choice, the scatter, the counts, what lies beyond."""
    units = [unit for unit in memorized.UNITS if len(memorized.signals(database, views, unit)) > 1]
    if not units:
        return
    st.header("Signals")
    with st.grid(min_column_width=190):
        unit = "captions" if "captions" in units else units[0]
        if len(units) > 1:
            address.one_of("points", units, "points")
            unit = str(st.selectbox("Points", units, key="points", bind="query-params"))
        names = memorized.signals(database, views, unit)
        # Captions and images have other signals, so each has a choice of its own.
        x = _signal("Signal with the threshold", f"{unit}_x", list(names), names)
        y = _signal("Against", f"{unit}_y", [name for name in names if name != x], names)
    value, why = memorized.start(database, views, unit, x)
    low, high = memorized.reach(database, views, unit, x)
    at = slider(
        f"Threshold: {parts.plain(names[x])}, beyond is {'below' if x in LOW else 'above'} it",
        f"t_{unit}_{x}",
        low,
        high,
        value,
        help=f"It starts at {parts.number(value)}: {why}.",
    )
    found = memorized.beyond(database, views, unit, x, at)
    with st.grid(min_column_width=380, gap="large") as grid:
        with grid.container():
            frame = memorized.points(database, views, unit, x, y)
            st.altair_chart(
                _scatter(frame, names[x], names[y], at),
                height=340,
                alt=f"{names[x]} against {names[y]}, a point for each of the {unit}; "
                f"threshold {at:g}",
            )
            if len(frame) == memorized.POINTS:
                st.caption(f"A sample of {memorized.POINTS:,} points; the counts are of all.")
        with grid.container():
            st.html(_counts(found, unit))
            st.caption(_caption(unit, views))
    rows = memorized.farthest(database, views, unit, x, at, LISTED)
    total = sum(one.beyond for one in found)
    with st.expander(f"Beyond the threshold: {total:,} {unit}, the farthest first"):
        st.html(_list(rows, names[x]))


def _signal(label: str, key: str, options: list[str], names: dict[str, str]) -> str:
    """A column; the address holds the signal's name."""
    columns = {names[column]: column for column in options}
    address.one_of(key, list(columns), "signal")
    return columns[str(st.selectbox(label, list(columns), key=key, bind="query-params"))]


def _scatter(frame: pd.DataFrame, x: str, y: str, at: float) -> Any:
    kinds = [kind for kind in TONES if kind in set(frame.kind)]
    legend = alt.Legend(title=None, orient="top")
    colours, shapes = zip(*(TONES[kind] for kind in kinds), strict=True) if kinds else ((), ())
    dots = (
        alt.Chart(frame)
        .mark_point(size=50, opacity=0.75, filled=True)
        .encode(
            x=alt.X(
                "x:Q", title=x, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=6, grid=False)
            ),
            y=alt.Y("y:Q", title=y, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=6)),
            color=alt.Color(
                "kind:N", scale=alt.Scale(domain=kinds, range=list(colours)), legend=legend
            ),
            shape=alt.Shape(
                "kind:N", scale=alt.Scale(domain=kinds, range=list(shapes)), legend=legend
            ),
            tooltip=[
                alt.Tooltip("x:Q", title=x),
                alt.Tooltip("y:Q", title=y),
                "kind:N",
                "caption:N",
            ],
        )
    )
    rule = (
        alt.Chart(pd.DataFrame({"x": [at]}))
        .mark_rule(color="#7f8896", strokeWidth=2, strokeDash=[5, 3])
        .encode(x="x:Q")
    )
    return alt.layer(dots, rule)


def _counts(found: list[Beyond], unit: str) -> str:
    body = "".join(
        f'<tr><th scope="row">{escape(RATES.get(one.kind, one.kind.capitalize()))}'
        f"<small>{one.beyond:,} of {one.n:,} {unit} beyond</small></th>"
        f"<td>{bars.interval(one.share, one.wilson, 0, 1)}</td>"
        f'<td class="t2i-right"><b>{parts.percent(one.share)}</b></td>'
        f'<td class="t2i-right">{parts.percents(one.wilson)}'
        f"<small>exact {parts.percents(one.exact)}</small></td></tr>"
        for one in sorted(found, key=lambda one: list(TONES).index(one.kind))
    )
    return (
        '<div class="t2i-scroll"><table class="t2i-table t2i-beyond"><thead><tr>'
        '<th scope="col">Beyond the threshold</th><th scope="col">0 to 100%</th>'
        '<th scope="col" class="t2i-right">Share</th><th scope="col" class="t2i-right">'
        "Wilson, Clopper-Pearson</th></tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def _caption(unit: str, views: Catalog) -> str:
    if unit == "captions":
        if "label" in views[CAPTIONS]:
            return (
                "What is memorized is known from the training copies or from the list of captions. "
                "95% intervals, captions as independent."
            )
        return "What is memorized is not known here. 95% intervals, captions as independent."
    return (
        "Copied is the probe's own verdict on pixels, not a truth. 95% intervals, images as "
        "independent: those of one caption are not, so they are too narrow."
    )


def _list(rows: list[dict[str, Any]], name: str) -> str:
    if not rows:
        return '<p class="t2i-dim">Nothing.</p>'
    body = ""
    for row in rows:
        text = row["caption"] or ""
        where = {"request": row["request"]} if row["request"] else {"q": text}
        address = parts.link("gallery", probe="memorization", **where)
        body += (
            f'<tr><td class="t2i-right"><b>{parts.number(row["value"])}</b></td>'
            f"<td>{escape(row['kind'])}</td><td>{escape(text)}</td>"
            f'<td><a href="{address}" target="_self" aria-label="images of {escape(text)}">'
            f"{'image' if row['request'] else 'images'}</a></td></tr>"
        )
    return (
        '<div class="t2i-scroll"><table class="t2i-table"><thead><tr>'
        f'<th scope="col" class="t2i-right">{escape(name)}</th><th scope="col">Known</th>'
        '<th scope="col">Caption</th><th scope="col">Evidence</th></tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
