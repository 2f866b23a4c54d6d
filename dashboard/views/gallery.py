"""The images: filtered, sorted, sixty a page; a finding opens exactly the images behind it."""

from __future__ import annotations

from html import escape
from typing import Any

import streamlit as st

from audit.errors import AuditError
from audit.findings import Finding
from audit.store import column_safe
from dashboard import parts, queries, reading
from dashboard.table import Condition, Table
from dashboard.views import detail, score_ranges

PER_PAGE = 60
ALL = "(all)"
AS_PLANNED = "as planned"
ORDERS = ("highest first", "lowest first")


def page() -> None:
    """The page."""
    index, run = parts.current()
    findings = {finding.id: finding for finding in reading.findings(run)}
    wanted = st.query_params.get("finding")
    if wanted not in (None, "", ALL, *findings):
        raise AuditError(f"this run has no finding '{wanted}'")
    finding = findings.get(wanted or "")
    st.title("Evidence" if finding else "Gallery")
    if finding:
        _banner(finding)
    with run.connect() as database:
        table, conditions = _filters(database, findings, finding)
        sort, descending = _order(table)
        if request := st.query_params.get("request"):
            detail.show(index, run, table, conditions, sort, descending, request)
            return
        _images(index, table, conditions, sort, descending)


def _images(
    index: int, table: Table, conditions: list[Condition], sort: str | None, descending: bool
) -> None:
    outcomes = table.outcomes(conditions)
    total = sum(outcomes.values())
    told = ", ".join(f"{count:,} {parts.words(kind)}" for kind, count in outcomes.items())
    with st.container(horizontal=True, vertical_alignment="center"):
        st.html(
            f'<p class="t2i-total" role="status"><b>{total:,}</b> match'
            f"{f' <span class=t2i-dim>({told})</span>' if total else ''}</p>"
        )
        reveal = st.toggle(
            "Show flagged images",
            key="reveal",
            bind="query-params",
            help="Images that a safety filter flagged are blurred before they leave the server. "
            "Each one that is shown is logged.",
        )
    first = parts.paged(total, PER_PAGE).start
    names = ["request", "image", "prompt", "outcome", "error", *([sort] if sort else [])]
    rows = table.page(names, conditions, sort, descending, PER_PAGE, first)
    if not queries.flags(table.views):
        st.caption("No safety filter has scored these images, so none is blurred.")
    if not rows:
        parts.warn("No image matches. Take a filter away.")
        return
    here = parts.here("request", "zoom")
    tiles = "".join(_tile(index, row, sort, reveal, here) for row in rows)
    st.html(f'<div class="t2i-grid" role="list">{tiles}</div>')


def _banner(f: Finding) -> None:
    figures = parts.number(f.estimate)
    if f.ci:
        figures += f" [{parts.number(f.ci[0])}, {parts.number(f.ci[1])}]"
    note = f'<div class="t2i-dim">{escape(f.note)}</div>' if f.note else ""
    st.html(
        f'<div class="t2i-banner"><div><b>{parts.words(f.metric)}</b> {parts.slice_of(f)}</div>'
        f'<div><span class="t2i-big">{figures}</span> {parts.verdict(f.verdict)}</div>'
        f'<div class="t2i-dim">rests on {f.n:,} images · {escape(f.probe)} · {escape(f.method)}'
        f"</div>{note}<div>{parts.conditions(f.evidence) or 'every image of the probe'}</div>"
        f'<div><a href="{parts.link("overview")}" target="_self">All findings</a> · '
        f'<a href="{parts.link("gallery", probe=column_safe(f.probe))}" target="_self">'
        "All images of this probe</a></div></div>"
    )


def _filters(
    database: Any, findings: dict[str, Finding], finding: Finding | None
) -> tuple[Table, list[Condition]]:
    """The boxes, and what they leave of the images; folded up where the address chose already."""
    folded = finding is not None or "request" in st.query_params
    with st.expander("Filters", expanded=not folded):
        boxes = st.grid(min_column_width=190)
        with boxes:
            probe = finding.probe if finding else _probe(database)
        table = Table(database, probe)
        conditions = table.evidence(finding.evidence) if finding else []
        with boxes:
            mine = [
                name
                for name, f in findings.items()
                if f.evidence and (not probe or column_safe(f.probe) == column_safe(probe))
            ]
            if mine:
                _select("Finding", "finding", mine)
            conditions += _tags(table)
            outcomes = list(table.outcomes())
            if chosen := _several("Outcome", "outcome", outcomes):
                conditions.append(table.equals("outcome", chosen))
            text = st.text_input(
                "Prompt contains",
                key="q",
                bind="query-params",
                on_change=_first_page,
                icon=":material/search:",
            )
        if text:
            conditions.append(table.contains(text))
        conditions += score_ranges.show(table, _first_page)
    return table, conditions


def _probe(database: Any) -> str | None:
    names = queries.probes(queries.catalog(database))
    probe = _select("Probe", "probe", names)
    return None if probe == ALL else probe


def _tags(table: Table) -> list[Condition]:
    conditions = []
    for tag in table.tags:
        options = table.options(tag)
        if options is None or len(options) < 2:
            continue
        label = parts.plain(tag.replace("_", " ").capitalize())
        if chosen := _several(label, f"tag_{tag}", options):
            conditions.append(table.shown_as(tag, *chosen))
    return conditions


def _order(table: Table) -> tuple[str | None, bool]:
    with st.grid(min_column_width=190):
        sort = st.selectbox(
            "Sort by",
            [AS_PLANNED, *table.scores],
            key="sort",
            bind="query-params",
            on_change=_first_page,
        )
        order = st.selectbox(
            "Order",
            ORDERS,
            key="order",
            bind="query-params",
            on_change=_first_page,
            disabled=sort == AS_PLANNED,
        )
    return None if sort == AS_PLANNED else sort, order == ORDERS[0]


def _select(label: str, key: str, options: list[str]) -> str:
    return st.selectbox(label, [ALL, *options], key=key, bind="query-params", on_change=_first_page)


def _several(label: str, key: str, options: list[str]) -> list[str]:
    return st.multiselect(
        label, options, key=key, bind="query-params", on_change=_first_page, placeholder="all"
    )


def _first_page() -> None:
    parts.first_page()
    for name in ("request", "zoom"):
        st.query_params.pop(name, None)


def _tile(
    index: int, row: dict[str, Any], sort: str | None, reveal: bool, here: dict[str, list[str]]
) -> str:
    prompt = row.get("prompt") or ""
    instead = row["outcome"] + (f": {row['error']}" if row.get("error") else "")
    image = parts.picture(index, row.get("image"), prompt, reveal=reveal, instead=instead)
    marks = ""
    if row["flagged"]:
        marks = f'<span class="t2i-mark">⚑ flagged{"" if reveal else ", blurred"}</span>'
    score = f'<span class="t2i-score"><b>{parts.number(row[sort])}</b></span>' if sort else ""
    address = parts.link("gallery", **here | {"request": [row["request"]]})
    return (
        f'<a class="t2i-tile" role="listitem" href="{address}" target="_self" '
        f'title="{escape(prompt)}">{image}{marks}{score}<span class="t2i-prompt">{escape(prompt)}'
        "</span></a>"
    )
