"""Ranges of detectors' scores, several at once, each below its histogram."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from dashboard import parts
from dashboard.table import Condition, Table

EITHER = "(all)"
ANSWERS = {"yes": True, "no": False}


def show(table: Table, on_change: Callable[[], None]) -> list[Condition]:
    """The box that chooses scores, a slider for each; the conditions that they set."""
    if not table.scores:
        return []
    chosen = st.multiselect(
        "Detector scores",
        table.scores,
        key="scores",
        bind="query-params",
        on_change=on_change,
        placeholder="choose scores to set ranges of",
    )
    conditions = []
    with st.grid(min_column_width=260, gap="medium"):
        for name in chosen:
            with st.container():
                if table.columns[name].type == "BOOLEAN":
                    condition = _answer(table, name, on_change)
                else:
                    condition = _range(table, name, on_change)
            if condition:
                conditions.append(condition)
    return conditions


def _answer(table: Table, name: str, on_change: Callable[[], None]) -> Condition | None:
    said = st.selectbox(
        parts.plain(name),
        [EITHER, *ANSWERS],
        key=f"range_{name}",
        bind="query-params",
        on_change=on_change,
    )
    return None if said == EITHER else table.equals(name, ANSWERS[said])


def _range(table: Table, name: str, on_change: Callable[[], None]) -> Condition | None:
    found = table.histogram(name)
    if found is None or found[0] == found[1]:
        only = "no finite value" if found is None else f"always {parts.number(found[0])}"
        st.html(f'<p class="t2i-dim">{parts.words(name)}: {only}</p>')
        return None
    low, high, counts = found
    above = st.container()
    start, end = st.slider(
        parts.plain(name),
        low,
        high,
        (low, high),
        step=(high - low) / 200,
        format="%.4g",
        key=f"range_{name}",
        bind="query-params",
        on_change=on_change,
    )
    above.html(_bars(name, low, high, counts, (start, end)))
    return None if (start, end) == (low, high) else table.between(name, start, end)


def _bars(name: str, low: float, high: float, counts: list[int], kept: tuple[float, float]) -> str:
    most, width = max(counts), (high - low) / len(counts)
    bars = ""
    for place, count in enumerate(counts):
        inside = low + (place + 1) * width > kept[0] and low + place * width < kept[1]
        out = "" if inside else ' class="t2i-out"'
        bars += f'<i{out} style="height:{100 * count / most:.1f}%"></i>'
    told = f"{name}: {sum(counts):,} images from {parts.number(low)} to {parts.number(high)}"
    return f'<div class="t2i-bars" role="img" aria-label="{parts.words(told)}">{bars}</div>'
