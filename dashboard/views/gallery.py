"""The images: filtered, sorted, sixty a page; a finding opens exactly the images behind it."""

from __future__ import annotations

from html import escape
from typing import Any

import streamlit as st

from audit.errors import AuditError
from audit.findings import Finding
from audit.store import Run, column_safe
from dashboard import parts, queries, reading
from dashboard.table import Condition, Table
from dashboard.views import detail

PER_PAGE = 60
ALL = "(all)"
AS_PLANNED = "as planned"


def page() -> None:
    """The page."""
    index, run = parts.current()
    wanted = st.query_params.get("finding")
    with run.connect() as database:
        if wanted:
            st.title("Evidence")
            finding = _finding(run, wanted)
            _banner(finding)
            table = Table(database, finding.probe)
            conditions = table.evidence(finding.evidence)
        else:
            st.title("Gallery")
            table, conditions = _probe(database)
        found, sort, descending = _search(table, conditions)
        conditions += found
        if request := st.query_params.get("request"):
            detail.show(index, run, table, conditions, sort, descending, request)
            return
        outcomes = table.outcomes(conditions)
        total = sum(outcomes.values())
        names = ["request", "image", "prompt", "outcome", "error", *([sort] if sort else [])]
        pages = max(1, -(-total // PER_PAGE))
        told = ", ".join(f"{count:,} {parts.words(kind)}" for kind, count in outcomes.items())
        with st.container(horizontal=True, vertical_alignment="center"):
            st.html(
                f'<p class="t2i-total"><b>{total:,}</b> match'
                f"{f' <span class=t2i-dim>({told})</span>' if total else ''}</p>"
            )
            reveal = st.toggle(
                "Show flagged images",
                key="reveal",
                bind="query-params",
                help="Images that a safety filter flagged are blurred "
                "before they leave the server.",
            )
        number = 1
        if pages > 1:
            number = st.pagination(pages, key="page", bind="query-params")
        rows = table.page(names, conditions, sort, descending, PER_PAGE, (number - 1) * PER_PAGE)
        if not queries.flags(table.views):
            st.caption("No safety filter has scored these images, so none is blurred.")
    if rows:
        tiles = "".join(_tile(index, row, sort, reveal) for row in rows)
        st.html(f'<div class="t2i-grid" role="list">{tiles}</div>')
    else:
        parts.warn("No image matches. Take a filter away.")


def _finding(run: Run, wanted: str) -> Finding:
    for finding in reading.findings(run):
        if finding.id == wanted:
            return finding
    raise AuditError(f"this run has no finding '{wanted}'")


def _banner(f: Finding) -> None:
    figures = parts.number(f.estimate)
    if f.ci:
        figures += f" [{parts.number(f.ci[0])}, {parts.number(f.ci[1])}]"
    st.html(
        f'<div class="t2i-banner"><div><b>{parts.words(f.metric)}</b> {parts.slice_of(f)}</div>'
        f'<div><span class="t2i-big">{figures}</span> {parts.verdict(f.verdict)}</div>'
        f'<div class="t2i-dim">rests on {f.n:,} images · {escape(f.probe)} · {escape(f.method)}'
        f"</div><div>{parts.conditions(f.evidence) or 'every image of the probe'}</div>"
        f'<div><a href="{parts.link("overview")}" target="_self">All findings</a> · '
        f'<a href="{parts.link("gallery", probe=column_safe(f.probe))}" target="_self">'
        "All images of this probe</a></div></div>"
    )


def _probe(database: Any) -> tuple[Table, list[Condition]]:
    names = queries.probes(queries.catalog(database))
    with st.container(border=True), st.grid(min_column_width=150):
        probe = st.selectbox(
            "Probe", [ALL, *names], key="probe", bind="query-params", on_change=_first_page
        )
        table = Table(database, None if probe == ALL else probe)
        conditions = []
        for tag in table.tags:
            options = table.options(tag)
            if options is None or len(options) < 2:
                continue
            label = parts.plain(tag.replace("_", " ").capitalize())
            value = st.selectbox(
                label,
                [ALL, *options],
                key=f"tag_{tag}",
                bind="query-params",
                on_change=_first_page,
            )
            if value != ALL:
                conditions.append(table.shown_as(tag, value))
    return table, conditions


def _search(table: Table, before: list[Condition]) -> tuple[list[Condition], str | None, bool]:
    conditions = []
    with st.grid(min_column_width=130):
        text = st.text_input(
            "Prompt contains",
            key="q",
            bind="query-params",
            on_change=_first_page,
            icon=":material/search:",
        )
        outcome = st.selectbox(
            "Outcome",
            [ALL, *table.outcomes(before)],
            key="outcome",
            bind="query-params",
            on_change=_first_page,
        )
        sort = st.selectbox(
            "Sort by",
            [AS_PLANNED, *table.scores],
            key="sort",
            bind="query-params",
            on_change=_first_page,
        )
        order = st.selectbox(
            "Order",
            ["highest first", "lowest first"],
            key="order",
            bind="query-params",
            on_change=_first_page,
            disabled=sort == AS_PLANNED,
        )
    if text:
        conditions.append(table.contains(text))
    if outcome != ALL:
        conditions.append(table.equals("outcome", outcome))
    return conditions, None if sort == AS_PLANNED else sort, order == "highest first"


def _first_page() -> None:
    if "page" in st.session_state:
        st.session_state["page"] = 1


def _tile(index: int, row: dict[str, Any], sort: str | None, reveal: bool) -> str:
    prompt = row.get("prompt") or ""
    instead = row["outcome"] + (f": {row['error']}" if row.get("error") else "")
    image = parts.picture(index, row.get("image"), prompt, reveal=reveal, instead=instead)
    marks = ""
    if row["flagged"]:
        marks = f'<span class="t2i-mark">⚑ flagged{"" if reveal else ", blurred"}</span>'
    score = f'<span class="t2i-score"><b>{parts.number(row[sort])}</b></span>' if sort else ""
    parameters = {key: value for key, value in st.query_params.items() if key != "run"}
    address = parts.link("gallery", **parameters | {"request": row["request"]})
    return (
        f'<a class="t2i-tile" role="listitem" href="{address}" target="_self" '
        f'title="{escape(prompt)}">{image}{marks}{score}<span class="t2i-prompt">{escape(prompt)}'
        "</span></a>"
    )
