"""Two attributes at once: heat maps of the cells, over all prompts and by prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import pandas as pd
import streamlit as st

from audit.findings import Finding
from audit.store import Run
from dashboard import findings_table, parts, queries

CELLS = "table_demographics_cells"
ROWS = 20
COLUMNS = (
    "attribute",
    "within_attribute",
    "subject",
    "within",
    "shrunk",
    "raw",
    "low",
    "high",
    "n",
)
FEW = "#D55E00"
MANY = "#0072B2"


def is_cell(f: Finding) -> bool:
    """Whether a finding is the share of one cell of two attributes."""
    return len(f.slice) == 2 and f.metric == f"share_{'_'.join(map(str, f.slice))}"


def show(run: Run, findings: Sequence[Finding], row: Any) -> None:
    """The heat maps of one pair of attributes, chosen in `row`."""
    pairs = {" × ".join(map(str, f.slice)): tuple(map(str, f.slice)) for f in findings}
    words = {name: name.replace("_", " ") for name in pairs}
    chosen = row.selectbox(
        "Attributes",
        list(pairs),
        key="pair",
        bind="query-params",
        format_func=lambda name: words[name],
        width=380,
    )
    one, two = pairs[chosen]
    own = [f for f in findings if tuple(map(str, f.slice)) == (one, two)]
    st.subheader("Images of all prompts")
    _cells(own, one, two)
    with run.connect() as database:
        views = queries.catalog(database)
        if set(COLUMNS) <= set(views.get(CELLS, ())):
            within = list(dict.fromkeys(str(f.slice[two]) for f in own))
            _by_subject(database, one, two, within)


def _cells(findings: Sequence[Finding], one: str, two: str) -> None:
    drawn = [f for f in findings if f.estimate is not None and f.reference is not None]
    if not drawn:
        parts.warn("No cell was measured.")
        return
    frame = pd.DataFrame(
        {
            "one": [str(f.slice[one]) for f in drawn],
            "two": [str(f.slice[two]) for f in drawn],
            "share": [f.estimate for f in drawn],
            "raw": [f.raw for f in drawn],
            "reference": [f.reference for f in drawn],
            "difference": [(f.estimate or 0.0) - (f.reference or 0.0) for f in drawn],
            "low": [f.ci[0] if f.ci else None for f in drawn],
            "high": [f.ci[1] if f.ci else None for f in drawn],
            "verdict": [parts.VERDICTS[f.verdict][1] for f in drawn],
        }
    )
    frame["said"] = [f"{share:.1%}" for share in frame["share"]]
    frame["expected"] = [f"expected {share:.1%}" for share in frame["reference"]]
    told = "; ".join(f"{r.one} and {r.two}: {r.said}, {r.expected}" for r in frame.itertuples())
    st.altair_chart(
        _heat(frame, one, two, "difference", "beyond the expected"),
        height=90 + 74 * frame["one"].nunique(),
        width=min(1000, 240 + 130 * frame["two"].nunique()),
        alt=f"Share of images in each cell: {told}",
    )
    st.html(
        '<p class="t2i-key">Share of images perceived as both, small cells drawn together; below '
        "it what the two references alone would give. Blue: more than that; orange: fewer.</p>"
    )
    with st.expander("The same as a table, with the images behind each figure"):
        st.html(findings_table.table(list(findings)))


def _heat(frame: pd.DataFrame, one: str, two: str, value: str, title: str) -> Any:
    widest = max(0.05, float(frame[value].abs().max()))
    base = alt.Chart(frame).encode(
        x=alt.X(
            "two:N",
            sort=None,
            title=two.replace("_", " "),
            axis=alt.Axis(orient="top", labelAngle=0, domain=False, ticks=False),
        ),
        y=alt.Y(
            "one:N",
            sort=None,
            title=one.replace("_", " "),
            axis=alt.Axis(domain=False, ticks=False),
        ),
        tooltip=[
            alt.Tooltip("one:N", title=one),
            alt.Tooltip("two:N", title=two),
            *(
                alt.Tooltip(f"{n}:Q", format=".1%")
                for n in ("share", "low", "high", "raw", "reference")
            ),
            "verdict:N",
        ],
    )
    cells = base.mark_rect(cornerRadius=4, stroke="#8a8f9844").encode(
        color=alt.Color(
            f"{value}:Q",
            title=title,
            scale=alt.Scale(
                domain=[-widest, 0, widest], range=[FEW, "#f2f2f2", MANY], interpolate="rgb"
            ),
            legend=alt.Legend(format="+.0%", gradientLength=120),
        )
    )
    ink = alt.condition(
        abs(alt.datum[value]) > 0.6 * widest, alt.value("white"), alt.value("black")
    )
    text = base.mark_text(fontSize=17, fontWeight=600, dy=-7).encode(text="said:N", color=ink)
    under = base.mark_text(fontSize=11, dy=12).encode(text="expected:N", color=ink)
    return alt.layer(cells, text, under)


def _by_subject(database: Any, one: str, two: str, labels: Sequence[str]) -> None:
    names = ", ".join(COLUMNS)
    where = "FROM table_demographics_cells WHERE attribute = ? AND within_attribute = ?"
    [[total, positive]] = database.execute(
        f"SELECT count(DISTINCT subject), any_value(positive) {where}", [one, two]
    ).fetchall()
    if not total:
        return
    st.subheader(parts.plain(f"Share of {positive} by prompt, among each {two}"))
    shown = parts.paged(total, ROWS)
    frame = database.execute(
        f"SELECT {names} {where} AND subject IN (SELECT DISTINCT subject {where} ORDER BY 1 "
        f"LIMIT {ROWS} OFFSET {shown.start}) ORDER BY subject",
        [one, two, one, two],
    ).df()
    frame["said"] = [f"{v:.0%}" if n else "–" for v, n in zip(frame.shrunk, frame.n, strict=True)]
    # What is only drawn from the other cells has no colour of its own.
    drawn = frame.assign(shrunk=frame["shrunk"].where(frame["n"] > 0))
    base = alt.Chart(drawn).encode(
        x=alt.X(
            "within:N",
            sort=list(labels),
            title=two.replace("_", " "),
            axis=alt.Axis(orient="top", labelAngle=0, domain=False, ticks=False),
        ),
        y=alt.Y("subject:N", title=None, axis=alt.Axis(domain=False, ticks=False, labelLimit=230)),
        tooltip=[
            "subject:N",
            "within:N",
            *(alt.Tooltip(f"{n}:Q", format=".1%") for n in ("shrunk", "low", "high", "raw")),
            alt.Tooltip("n:Q", title="images"),
        ],
    )
    cells = base.mark_rect(cornerRadius=3, stroke="#8a8f9844").encode(
        color=alt.Color(
            "shrunk:Q",
            title=f"share of {positive}",
            scale=alt.Scale(domain=[0, 0.5, 1], range=[FEW, "#f2f2f2", MANY], interpolate="rgb"),
            legend=alt.Legend(format=".0%"),
        )
    )
    ink = alt.condition(abs(alt.datum.shrunk - 0.5) > 0.3, alt.value("white"), alt.value("black"))
    text = base.transform_filter("datum.n > 0").mark_text(fontSize=12)
    text = text.encode(text="said:N", color=ink)
    told = "; ".join(f"{r.subject}, {r.within}: {r.said}" for r in frame.itertuples())
    told = told.replace("–", "no image")
    st.altair_chart(
        alt.layer(cells, text),
        height=110 + 26 * frame["subject"].nunique(),
        alt=f"Share of {positive} by prompt: {told}",
    )
    with st.expander("The same as a table"):
        st.dataframe(frame.drop(columns=["said"]), hide_index=True)
