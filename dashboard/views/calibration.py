"""What the version of the toolkit that made this run did with known answers."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import altair as alt
import pandas as pd
import streamlit as st

from audit.calibration.shipped import TOOLKIT, of_version, sentence, share
from audit.card import wording
from dashboard import parts

HOLDS, FAILS = "#009E73", "#D55E00"
BAND = "#888888"
ALL = "all probes"


def page() -> None:
    """The page."""
    _, run = parts.current()
    st.title("Known answers")
    version = str((run.info.get("versions") or {}).get(TOOLKIT) or "")
    result = of_version(version) if version else None
    if result is None:
        parts.warn(
            f"Version {version or '?'} of the toolkit, which made this run, ships without a test "
            "on known answers. To make one: t2i-audit calibrate"
        )
        return
    st.html(f"<p>{escape(sentence(result))}</p>")
    probes = st.segmented_control(
        "Probe", list(result["probes"]), key="probes", bind="query-params", selection_mode="multi"
    )
    kept = [row for row in result["effects"] if not probes or row["probe"] in probes]
    st.header("By probe")
    st.html(_by_probe(result))
    st.header("Intervals that hold the true value")
    frame = _frame(kept)
    low, high = result["allowed"]["coverage"]
    st.altair_chart(
        _chart(frame, low, high),
        width="stretch",
        alt="Coverage of the 95% intervals of each effect, with its own interval; the band is "
        f"where it must lie, {low:.0%} to {high:.0%}.",
    )
    with st.expander("The same as a table, with what was planted and found"):
        st.dataframe(
            frame.drop(columns=["low", "high"]), hide_index=True, alt="Planted and found effects"
        )
    st.header("Answers that are right or wrong")
    st.html(_checks([one for one in result["checks"] if not probes or one["probe"] in probes]))
    st.header("Errors of the detectors")
    st.html(_detectors(result["detectors"]))


def _by_probe(result: Mapping[str, Any]) -> str:
    rows = [
        [
            parts.words(name),
            escape(share(row, "coverage", "intervals")),
            escape(share(row, "power", "planted")) if row["planted"] else "–",
            escape(share(row, "false_alarms", "absent")) if row["absent"] else "–",
        ]
        for name, row in {**result["probes"], ALL: result["overall"]}.items()
    ]
    return _table(["Probe", "Intervals that hold", "Planted effects found", "False alarms"], rows)


def _frame(effects: list[dict[str, Any]]) -> pd.DataFrame:
    rows = []
    for row in effects:
        low, high = row["coverage_ci"] or (None, None)
        rows.append(
            {
                "effect": f"{row['probe']}: {row['said']} ({row['variant']})",
                "probe": row["probe"],
                "measured": wording.metric(row["metric"]).label,
                "planted": row["planted"],
                "found": row["found"],
                "intervals": row["intervals"],
                "coverage": row["coverage"],
                "low": low,
                "high": high,
                "accused": row["accused_share"],
                "holds": "holds" if not row["failures"] else "does not hold",
            }
        )
    return pd.DataFrame(rows)


def _chart(frame: pd.DataFrame, low: float, high: float) -> alt.LayerChart | alt.FacetChart:
    """Coverage of every effect with its interval, the allowed band behind."""
    y = alt.Y("effect:N", sort=None, title=None, axis=alt.Axis(labelLimit=300))
    scale = alt.Scale(domain=[0.7, 1.0], clamp=True)
    axis = alt.Axis(format="%", title="Share of 95% intervals that hold the true value")
    colour = alt.Color(
        "holds:N",
        title=None,
        legend=alt.Legend(orient="top"),
        scale=alt.Scale(domain=["holds", "does not hold"], range=[HOLDS, FAILS]),
    )
    band = (
        alt.Chart(pd.DataFrame({"from": [low], "to": [high]}))
        .mark_rect(opacity=0.18, color=BAND)
        .encode(x=alt.X("from:Q", scale=scale, axis=axis), x2="to:Q")
    )
    base = alt.Chart(frame)
    spans = base.mark_rule(strokeWidth=2).encode(
        x=alt.X("low:Q", scale=scale), x2="high:Q", y=y, color=colour
    )
    dots = base.mark_point(filled=True, size=70).encode(
        x=alt.X("coverage:Q", scale=scale),
        y=y,
        color=colour,
        shape=alt.Shape(
            "holds:N",
            title=None,
            scale=alt.Scale(domain=["holds", "does not hold"], range=["circle", "diamond"]),
        ),
        tooltip=[
            alt.Tooltip("effect:N"),
            alt.Tooltip("measured:N"),
            alt.Tooltip("coverage:Q", format=".1%"),
            alt.Tooltip("intervals:Q"),
            alt.Tooltip("planted:Q", format=".3f"),
            alt.Tooltip("found:Q", format=".3f"),
        ],
    )
    return alt.layer(band, spans, dots).properties(height=alt.Step(22))


def _checks(checks: list[dict[str, Any]]) -> str:
    rows = [
        [
            parts.verdict("within", "right")
            if one["passed"]
            else parts.verdict("exceeds", "wrong"),
            parts.words(one["probe"]),
            escape(one["said"]),
            escape(one["detail"]),
        ]
        for one in checks
    ]
    return _table(["", "Probe", "Known answer", "Counted"], rows)


def _detectors(detectors: list[dict[str, Any]]) -> str:
    rows = [
        [
            escape(one["detector"]),
            escape(one["of"]),
            escape(one["truth"]),
            escape(f"{one['wrong']} of {one['n']:,}"),
            "–"
            if one["ci"] is None
            else escape(f"{one['error']:.1%} ({one['ci'][0]:.1%} to {one['ci'][1]:.1%})"),
        ]
        for one in detectors
    ]
    return _table(["Detector", "Of", "Truth", "Wrong", "Error with 95% interval"], rows)


def _table(head: list[str], rows: list[list[str]]) -> str:
    """A table of cells that are escaped already."""
    columns = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f'<div class="t2i-scroll"><table class="t2i-table"><thead><tr>{columns}</tr></thead>'
        f"{body}</table></div>"
    )
