"""What the model gives back: signals, duplicates, seeds that agree, and the pairs themselves."""

from __future__ import annotations

from typing import Literal

import altair as alt
import pandas as pd
import streamlit as st

from dashboard import parts, queries
from dashboard.memorized import MEASURED, NEIGHBOURS
from dashboard.views import clique, memorization_signals, pairs

DUPLICATION = "table_memorization_duplication"
BLUE, ORANGE = "#2E86C1", "#D55E00"


def page() -> None:
    """The page."""
    index, run = parts.current()
    st.title("Memorization")
    with run.connect() as database:
        views = queries.catalog(database)
        if NEIGHBOURS not in views:
            parts.warn(
                "This run holds no comparison with training images: "
                "the probe 'memorization' was not analysed."
            )
            return
        memorization_signals.show(database, views)
        if MEASURED in views:
            _signals(database.execute(f"SELECT * FROM {MEASURED} ORDER BY auc DESC, signal").df())
        if DUPLICATION in views:
            _curve(database.execute(f"SELECT * FROM {DUPLICATION} ORDER BY 1").df())
        clique.show(database, views, index, run)
        pairs.show(database, views, index)


def _curve(frame: pd.DataFrame) -> None:
    st.header("Copies by duplicates in training")
    told = ", ".join(f"{d}: {s:.0%}" for d, s in zip(frame.duplicates, frame.share, strict=True))
    scale: Literal["log", "symlog"] = "log" if frame.duplicates.min() > 0 else "symlog"
    base = alt.Chart(frame).encode(
        x=alt.X(
            "duplicates:Q",
            title="times in the training set",
            scale=alt.Scale(type=scale, nice=False, padding=20),
            axis=alt.Axis(values=sorted(set(frame.duplicates)), format="d", grid=False),
        ),
        tooltip=[alt.Tooltip(f"{name}:Q") for name in frame.columns],
    )
    y = alt.Y(
        "share:Q",
        title="share of images copied",
        axis=alt.Axis(format="%"),
        scale=alt.Scale(domain=[0, 1]),
    )
    chart = alt.layer(
        base.mark_line(color=BLUE, strokeDash=[4, 3], opacity=0.6).encode(y=y),
        base.mark_rule(color=BLUE, strokeWidth=3).encode(
            y=alt.Y("low:Q", title="share of images copied"), y2="high:Q"
        ),
        base.mark_point(color=BLUE, filled=True, size=90, opacity=1).encode(y=y),
    )
    st.altair_chart(chart, height=280, alt=f"Share of images copied by duplicates: {told}")
    st.caption("Wilson's 95% interval, captions as clusters.")
    with st.expander("The same as a table"):
        st.dataframe(frame, hide_index=True, alt="Copies by duplicates")


def _signals(frame: pd.DataFrame) -> None:
    st.header("How well each signal tells")
    told = ", ".join(
        f"{name} {area:.3f}" for name, area in zip(frame.signal, frame.auc, strict=True)
    )
    y = alt.Y("signal:N", title=None, sort=list(frame.signal), axis=alt.Axis(labelLimit=260))
    base = alt.Chart(frame).encode(
        y=y, tooltip=["signal", "paper", "auc", "tpr", "memorized", "negatives", "cost"]
    )
    x = alt.X("auc:Q", title="area under the ROC curve", scale=alt.Scale(domain=[0, 1]))
    chance = (
        alt.Chart(pd.DataFrame({"auc": [0.5]}))
        .mark_rule(strokeDash=[5, 4], color="#7f8896")
        .encode(x=x)
    )
    chart = alt.layer(
        chance,
        base.mark_rule(color=BLUE, strokeWidth=3).encode(
            x=alt.X("auc_low:Q", title="area under the ROC curve"), x2="auc_high:Q"
        ),
        base.mark_point(color=BLUE, filled=True, size=90, opacity=1).encode(x=x),
    )
    st.altair_chart(chart, height=70 + 26 * len(frame), alt=f"AUC of each signal: {told}")
    against = "; ".join(sorted(set(frame.compared_with)))
    st.caption(
        f"{frame.memorized.max():,} memorized captions against {frame.negatives.max():,} "
        f"negatives ({parts.plain(against)}). Line: 95% interval; dashed is chance."
    )
    with st.expander("The same as a table, with the true-positive rate"):
        st.dataframe(frame, hide_index=True, alt="Signals of memorization")
