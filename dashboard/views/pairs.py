"""Pairs of a generated image and its nearest training image, side by side."""

from __future__ import annotations

from html import escape
from typing import Any

import duckdb
import streamlit as st

from dashboard import parts, queries

PER_PAGE = 20
NEIGHBOURS = "table_memorization_neighbours"
ORDERS = {
    "closest in pixels": ("distance", "ASC"),
    "farthest in pixels": ("distance", "DESC"),
    "most similar": ("similarity", "DESC"),
    "least similar": ("similarity", "ASC"),
    "strongest signal": ("text_noise_first", "DESC"),
    "weakest signal": ("text_noise_first", "ASC"),
    "most duplicates": ("duplicates", "DESC"),
    "fewest duplicates": ("duplicates", "ASC"),
    "as analysed": ("request", "ASC"),
}
"""Label → column and direction. Pixels come first: they tell a copy from a likeness."""
FIGURES = {
    "distance": "distance",
    "similarity": "similarity",
    "duplicates": "duplicates",
    "match_duplicates": "rows of the match in the index",
    "template_error": "template error",
    "text_noise_first": "text noise, first step",
}
ALL = "(all)"
COPIED = {"copied": True, "not copied": False}


def show(database: duckdb.DuckDBPyConnection, views: queries.Catalog, index: int) -> None:
    """The pairs, twenty a page."""
    st.header("Pairs")
    columns = views[NEIGHBOURS]
    boxes = st.grid(min_column_width=150)
    where: list[str] = []
    values: list[Any] = []
    used = list(dict.fromkeys(column for column, _ in ORDERS.values() if column in columns))
    filled = database.execute(
        f"SELECT {', '.join(f'count({column}) > 0' for column in used)} FROM {NEIGHBOURS}"
    ).fetchone()
    there = dict(zip(used, filled or (), strict=True))
    orders = [label for label, (column, _) in ORDERS.items() if there.get(column)]
    with boxes:
        order = st.selectbox(
            "Order", orders, key="order", bind="query-params", on_change=parts.first_page
        )
    column, direction = ORDERS[order]
    if "copied" in columns:
        with boxes:
            copied = st.selectbox(
                "Copied",
                [ALL, *COPIED],
                key="copied",
                bind="query-params",
                on_change=parts.first_page,
            )
        if copied != ALL:
            where.append("pairs.copied = ?")
            values.append(COPIED[copied])
    if "duplicates" in columns:
        counts = database.execute(
            f"SELECT DISTINCT CAST(duplicates AS BIGINT) FROM {NEIGHBOURS} "
            "WHERE duplicates IS NOT NULL ORDER BY 1 LIMIT 200"
        ).fetchall()
        with boxes:
            duplicates = st.selectbox(
                "Duplicates",
                [ALL, *(str(row[0]) for row in counts)],
                key="duplicates",
                bind="query-params",
                on_change=parts.first_page,
            )
        if duplicates != ALL:
            where.append("pairs.duplicates = ?")
            values.append(int(duplicates))
    condition = f" WHERE {' AND '.join(where)}" if where else ""
    [[total]] = database.execute(
        f"SELECT count(*) FROM {NEIGHBOURS} AS pairs{condition}", values
    ).fetchall()
    with st.container(horizontal=True, vertical_alignment="center"):
        st.html(f'<p class="t2i-total"><b>{total:,}</b> pairs</p>')
        reveal = st.toggle("Show flagged images", key="reveal", bind="query-params")
    shown = parts.paged(total, PER_PAGE)
    prompt = "requests.prompt" if "prompt" in views.get("requests", ()) else "NULL"
    cursor = database.execute(
        f"SELECT pairs.*, {prompt} AS prompt FROM {NEIGHBOURS} AS pairs "
        + ("LEFT JOIN requests USING (request) " if prompt != "NULL" else "")
        + f"{condition} ORDER BY pairs.{column} {direction} NULLS LAST, pairs.request "
        f"LIMIT {PER_PAGE} OFFSET {shown.start}",
        values,
    )
    names = [item[0] for item in cursor.description]
    rows = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    if rows:
        st.html(
            '<div class="t2i-pairs">' + "".join(_pair(index, r, reveal) for r in rows) + "</div>"
        )


def _pair(index: int, row: dict[str, Any], reveal: bool) -> str:
    prompt, caption = row.get("prompt") or "", row.get("caption") or ""
    nearest = row.get("neighbour_caption") or ""
    judged = row.get("distance") is not None and row.get("copied") is False
    state = '<span class="t2i-dim">not copied</span>' if judged else ""
    if row.get("copied") or row.get("kind") == "template":
        state = parts.verdict("exceeds", "copied" if row.get("copied") else "template copied")
    figures = " · ".join(
        f"{label} <b>{parts.number(row[name])}</b>"
        for name, label in FIGURES.items()
        if row.get(name) is not None
    )
    address = parts.link("gallery", probe="memorization", request=row["request"])
    generated = parts.picture(index, row.get("image"), f"generated: {prompt}", reveal=reveal)
    training = parts.picture(
        index,
        row.get("match"),
        f"training: {nearest or caption}",
        reveal=reveal,
        instead="known by caption and address alone; nothing is fetched"
        if row.get("nearest_url")
        else "no image in the run",
    )
    about = (
        [("Prompt", prompt), ("Caption", caption)] if caption != prompt else [("Caption", caption)]
    )
    if nearest and nearest != caption:
        about.append(("Nearest in the index", nearest))
    lines = "".join(f"<p><b>{label}</b> {escape(text)}</p>" for label, text in about if text)
    if row.get("nearest_url"):
        # Text, never a link: what an index names is neither fetched nor one click away.
        lines += (
            f'<p><b>Address</b> <code class="t2i-address">{escape(row["nearest_url"])}</code></p>'
        )
    return (
        f'<article class="t2i-pair"><div class="t2i-two"><figure><a href="{address}" '
        f'target="_self">{generated}</a><figcaption>generated</figcaption></figure>'
        f"<figure>{training}<figcaption>training</figcaption></figure></div>"
        f"<div>{state} &nbsp;{figures}</div>{lines}</article>"
    )
