"""Concepts of a checker, agreement of filters, flips under small changes: tables of the probe."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import duckdb
import pandas as pd
import streamlit as st

from audit.findings import Finding
from audit.statistics import cohen_kappa, wilson
from dashboard import bars, charts, filter_charts, parts
from dashboard.queries import Catalog

CONCEPTS = "table_safety_filters_concepts"
ROBUSTNESS = "table_safety_filters_robustness"


def concepts(database: duckdb.DuckDBPyConnection, views: Catalog, name: str) -> None:
    if CONCEPTS not in views:
        return
    frame = database.execute(
        f"SELECT concept, CASE WHEN restricted THEN 'restricted' ELSE 'harmless' END AS truth, "
        f"n, low, median, high, above FROM {CONCEPTS} WHERE filter = ? ORDER BY 1, 2 DESC",
        [name],
    ).df()
    if frame.empty:
        return
    st.header("Margins of its concepts")
    charts.draw(
        filter_charts.concepts(),
        {"margins": frame, "zero": pd.DataFrame({"margin": [0]})},
        height=110 + 44 * frame.concept.nunique(),
        alt="Margin of each concept for restricted and for harmless images; above 0 it blocks",
    )
    st.caption(
        "From the 5th to the 95th percentile, the mark is the median. A concept above 0 blocks; a "
        "special one above 0 makes the others stricter."
    )
    with st.expander("The same as a table"):
        st.dataframe(frame, hide_index=True, alt="Margins of the concepts")


def agreement(findings: Sequence[Finding], names: Sequence[str]) -> None:
    found = [f for f in findings if f.metric == "filter_agreement" and f.detail]
    if not found:
        return
    st.header("Do the filters agree?")
    body = ""
    for f in found:
        detail = f.detail or {}
        first, second = _two(str(f.slice.get("filter", "")), names)
        cells = [
            int(detail.get(key) or 0)
            for key in ("both_block", f"only_{first}", f"only_{second}", "neither")
        ]
        kappa, ci = cohen_kappa(*cells) if sum(cells) else (math.nan, (math.nan, math.nan))
        bounds = None if math.isnan(ci[0]) else ci
        said = "one answer only" if math.isnan(kappa) else "no interval"
        body += (
            f'<tr><th scope="row">{escape(first)} and {escape(second)}</th>'
            f"<td>{bars.interval(kappa, bounds, -1, 1, reference=0.0)}</td>"
            f'<td class="t2i-right"><b>{parts.number(kappa)}</b>'
            f"<small>{_bounds(bounds) if bounds else said}</small></td>"
            + "".join(f'<td class="t2i-right">{count:,}</td>' for count in cells)
            + f'<td class="t2i-right">{_p(detail.get("mcnemar_p"))}</td></tr>'
        )
    heads = ("Both block", "Only the first", "Only the second", "Neither", "McNemar p")
    st.html(
        '<div class="t2i-scroll"><table class="t2i-table t2i-kappas"><thead><tr>'
        '<th scope="col">Filters</th><th scope="col">κ from −1 to 1</th>'
        '<th scope="col" class="t2i-right">κ</th>'
        + "".join(f'<th scope="col" class="t2i-right">{head}</th>' for head in heads)
        + f"</tr></thead><tbody>{body}</tbody></table></div>"
    )
    st.caption(
        "Cohen's κ of their own decisions on the same images, 95% (Fleiss, Cohen and Everitt "
        "1969): 1 is always alike, 0 no more than chance. Filters for different things need not "
        "agree."
    )


def _two(text: str, names: Sequence[str]) -> tuple[str, str]:
    """The two filters of a finding; a name may hold the word "and" itself."""
    for first in names:
        for second in names:
            if text == f"{first} and {second}":
                return first, second
    first, _, second = text.partition(" and ")
    return first, second


def flips(database: duckdb.DuckDBPyConnection, views: Catalog, name: str) -> None:
    if ROBUSTNESS not in views:
        return
    frame = database.execute(
        f"SELECT * EXCLUDE filter FROM {ROBUSTNESS} WHERE filter = ? ORDER BY flips / n DESC, 1",
        [name],
    ).df()
    if frame.empty:
        return
    st.header("Does a small change turn its decision?")
    body = ""
    for row in frame.to_dict("records"):
        n, turned = int(row["n"]), int(row["flips"])
        share, ci = turned / max(n, 1), wilson(turned, n)
        drift = [float(row[f"score_drift{end}"]) for end in ("", "_low", "_high")]
        body += (
            f'<tr><th scope="row">{escape(str(row["perturbation"]))}<small>'
            f"{escape(str(row['size']))}</small></th>"
            f"<td>{bars.interval(share, ci, 0, 1)}</td>"
            f'<td class="t2i-right"><b>{parts.percent(share)}</b>'
            f"<small>{parts.percents(ci)}</small></td>"
            f'<td class="t2i-right">{int(row["blocked_to_passed"]):,}</td>'
            f'<td class="t2i-right">{int(row["passed_to_blocked"]):,}</td>'
            f'<td class="t2i-right">{n:,}</td>'
            f'<td class="t2i-right">{parts.number(drift[0])}<small>{_bounds(drift[1:])}</small>'
            "</td></tr>"
        )
    heads = ("Turned", "Then passed", "Then blocked", "Images", "Mean drift of the score")
    st.html(
        '<div class="t2i-scroll"><table class="t2i-table t2i-kappas"><thead><tr>'
        '<th scope="col">Change</th><th scope="col">0 to 100%</th>'
        + "".join(f'<th scope="col" class="t2i-right">{head}</th>' for head in heads)
        + f"</tr></thead><tbody>{body}</tbody></table></div>"
    )
    st.caption(
        "At the filter's own decision: each image and its changed copy. Wilson, images as "
        "independent; drift: Student's t over prompts."
    )


def _bounds(ci: Sequence[float]) -> str:
    return f"{parts.number(ci[0])} to {parts.number(ci[1])}".replace("-", "−")


def _p(value: object) -> str:
    if not isinstance(value, float | int):
        return "–"
    return "< 0.0001" if value < 1e-4 else parts.number(float(value))
