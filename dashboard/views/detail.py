"""One image with all that is known of it."""

from __future__ import annotations

from html import escape
from typing import Any

import streamlit as st

from audit.errors import AuditError
from audit.store import Run
from dashboard import parts
from dashboard.table import Condition, Table

ZOOMS = {"1": "fit", "2": "2 ×", "4": "4 ×", "8": "8 ×"}


def show(
    index: int,
    run: Run,
    table: Table,
    conditions: list[Condition],
    sort: str | None,
    descending: bool,
    request: str,
) -> None:
    """The image of `request`, with the way to its neighbours in the gallery's order."""
    rows = table.page(table.columns, [table.equals("request", request)], limit=1)
    if not rows:
        raise AuditError(f"no image has the request '{request[:64]}' here")
    row = rows[0]
    parameters = parts.here("request", "zoom")
    before, after = table.neighbours(request, conditions, sort, descending)
    ways = [("← Previous", before), ("Next →", after)]
    links = "".join(
        f'<a href="{parts.link("gallery", **parameters | {"request": [other]})}" target="_self">'
        f"{label}</a>"
        if other
        else f'<span class="t2i-dim">{label}</span>'
        for label, other in ways
    )
    st.html(
        f'<nav class="t2i-ways" aria-label="images"><a href="'
        f'{parts.link("gallery", **parameters)}" target="_self">Back to the gallery</a>'
        f"{links}</nav>"
    )
    prompt = row.get("prompt") or ""
    reveal = st.query_params.get("reveal", "").lower() in ("1", "true")
    left, right = st.columns([2, 3], gap="large")
    with left:
        picture = parts.picture(
            index,
            row.get("image"),
            prompt,
            thumbnail=False,
            reveal=reveal,
            instead=row["outcome"] + (f": {row['error']}" if row.get("error") else ""),
        )
        _zoomed(picture, parameters | {"request": [request]})
        if row["flagged"]:
            _reveal(parameters, reveal, request)
    with right:
        st.html(f'<p class="t2i-quote">{escape(prompt)}</p>')
        _facts(table, row)


def _zoomed(picture: str, parameters: dict[str, list[str]]) -> None:
    """The image as large as the address asks; a larger one is scrolled."""
    wanted = st.query_params.get("zoom", "")
    zoom = int(wanted) if wanted in ZOOMS else 1
    ways = "".join(
        f"<b>{word}</b>"
        if int(times) == zoom
        else f'<a href="{parts.link("gallery", **parameters | {"zoom": [times]})}" '
        f'target="_self">{word}</a>'
        for times, word in ZOOMS.items()
    )
    close = " t2i-close" if zoom > 1 else ""
    st.html(
        f'<div class="t2i-zoom{close}" tabindex="0" role="group" aria-label="the image, {zoom} '
        f'times as wide as its column"><div style="width:{zoom * 100}%" class="t2i-full">{picture}'
        "</div></div>"
        f'<nav class="t2i-ways" aria-label="zoom"><span class="t2i-dim">Zoom</span>{ways}</nav>'
    )


def _reveal(parameters: dict[str, list[str]], reveal: bool, request: str) -> None:
    if reveal:
        st.html('<p class="t2i-dim">⚑ flagged by a safety filter</p>')
        return
    address = parts.link("gallery", **parameters | {"request": [request], "reveal": ["true"]})
    st.html(
        f"<p>⚑ Flagged by a safety filter, therefore blurred. "
        f'<a href="{address}" target="_self">Show it</a></p>'
    )


def _facts(table: Table, row: dict[str, Any]) -> None:
    groups: dict[str, list[tuple[str, Any]]] = {}
    for name, column in table.columns.items():
        if name in ("prompt", "error") and not (name == "error" and row.get(name)):
            continue
        value = row.get(name)
        if column.origin.startswith("detections_"):
            detector = column.origin.removeprefix("detections_")
            groups.setdefault(f"Scores of {detector}", []).append(
                (name.removeprefix(detector + "_"), "–" if value is None else value)
            )
        else:
            kind = {"requests": "Request", "records": "Record"}.get(column.origin, "Asked by")
            groups.setdefault(kind, []).append((name, value))
    for title, rows in groups.items():
        st.html(f"<h3>{parts.words(title)}</h3>{parts.facts(rows)}")
