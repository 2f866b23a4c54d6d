"""One language, prompt by prompt: the paired difference of each to English, and its images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import streamlit as st

from audit.card import wording
from audit.findings import Finding
from dashboard import parts
from dashboard.table import Condition, Table

ROWS = 15
"""Prompts a page."""
SCORES = ("clip_alignment", "clip_multilingual_alignment")
NEEDED = {"key", "language", "arm", "index"}


def scripts(table: Table) -> dict[str, str]:
    """Language → its script."""
    if not {"language", "script"} <= table.columns.keys():
        return {}
    language, script = table.columns["language"], table.columns["script"]
    rows = table.ask(
        f"SELECT {language.sql} AS language, any_value({script.sql}) AS script",
        [],
        {language.view, script.view},
        "GROUP BY 1",
    )
    return {str(row["language"]): str(row["script"] or "") for row in rows}


def compare(table: Table, language: str, arm: str, score: str = SCORES[0]) -> int:
    """Compare the prompts of one language with the English ones, for :func:`compared`.

    Returns:
        how many prompts have a pair of images that were both measured.
    """
    names = {"key": "key", "place": "index", "score": score, "text": "text", "prompt": "prompt"}
    columns = {name: table.column(column) for name, column in names.items()}
    select = ", ".join(f"{column.sql} AS {name}" for name, column in columns.items())
    views = {column.view for column in columns.values()}
    made = [table.equals("outcome", "ok")]

    def images(*conditions: Condition) -> tuple[str, list[Any]]:
        return table.query(f"SELECT {select}", [*made, *conditions], views)

    own, values = images(table.equals("language", language), table.equals("arm", arm))
    english, more = images(table.equals("arm", "english"))
    query = (
        f"CREATE OR REPLACE TEMP TABLE compared AS WITH own AS ({own}), base AS ({english}), "
        "english AS (SELECT DISTINCT ON (key, place) * FROM base WHERE score IS NOT NULL) "
        "SELECT own.key, any_value(own.prompt) AS prompt, any_value(own.text) AS text, "
        "count(*) AS pairs, avg(own.score) AS own, avg(english.score) AS english, "
        "avg(own.score - english.score) AS difference "
        "FROM own JOIN english ON own.key = english.key AND own.place = english.place "
        "WHERE own.score IS NOT NULL GROUP BY own.key"
    )
    table.database.execute(query, [*values, *more])
    [[total]] = table.database.execute("SELECT count(*) FROM compared").fetchall()
    return int(total)


def compared(table: Table, shown: slice) -> list[dict[str, Any]]:
    """Some of the prompts, those that lose most first.

    A row: the key, the asked prompt, the English text, pairs, the mean of both, and the mean of the
    paired difference to the English image of the same content on the same seed.
    """
    cursor = table.database.execute(
        "SELECT * FROM compared ORDER BY difference, key LIMIT ? OFFSET ?",
        [shown.stop - shown.start, shown.start],
    )
    told = [item[0] for item in cursor.description]
    return [dict(zip(told, row, strict=True)) for row in cursor.fetchall()]


def show(
    index: int, table: Table, findings: Sequence[Finding], label: Callable[[Finding], str]
) -> None:
    """The choice of a language, its prompts."""
    score = next((name for name in SCORES if name in table.columns), None)
    if score is None or not table.columns.keys() >= NEEDED or "requests" not in table.views:
        return
    # Of a script or an arm there are several languages, whose prompts would not be comparable.
    slices = {label(f): f.slice for f in findings if "language" in f.slice}
    if not slices:
        return
    st.header("By prompt")
    with st.container(horizontal=True, vertical_alignment="bottom"):
        chosen = st.selectbox(
            "Language", list(slices), key="language", bind="query-params", width=300
        )
        language = str(slices[chosen]["language"])
        arm = str(slices[chosen].get("arm", "translation"))
        shown = parts.paged(compare(table, language, arm, score), ROWS)
    rows = compared(table, shown)
    if not rows:
        parts.warn("No pair of images was measured.")
        return
    st.html(_table(rows, language, arm, score))


def _table(rows: Sequence[dict[str, Any]], language: str, arm: str, score: str) -> str:
    widest = max(abs(row["difference"]) for row in rows) or 1.0
    body = "".join(_row(row, language, arm, widest) for row in rows)
    return (
        '<div class="t2i-scroll"><table class="t2i-table t2i-by-prompt"><thead><tr>'
        '<th scope="col">Content</th><th scope="col">Asked</th>'
        f'<th scope="col" class="t2i-right">English</th>'
        f'<th scope="col" class="t2i-right">{escape(language)}</th>'
        '<th scope="col" class="t2i-right">Difference</th><th scope="col"></th>'
        '<th scope="col" class="t2i-right">Pairs</th><th scope="col">Images</th></tr></thead>'
        f'<tbody>{body}</tbody></table></div><p class="t2i-key">Mean {parts.words(score)} over '
        "the pairs of a prompt; those that lose most come first.</p>"
    )


def _row(row: dict[str, Any], language: str, arm: str, widest: float) -> str:
    key, lost = str(row["key"]), float(row["difference"])
    share = 50 * abs(lost) / widest
    left = 50 - share if lost < 0 else 50
    tone = "#D55E00" if lost < 0 else "#0072B2"
    side = parts.link("side_by_side", vary="Languages", of=key)
    images = parts.link("gallery", probe="languages", tag_language=language, q=row["prompt"])
    return (
        f'<tr><th scope="row">{escape(key)}<small dir="auto">{escape(str(row["text"] or ""))}'
        f'</small></th><td dir="auto" lang="{escape(language)}">{escape(str(row["prompt"] or ""))}'
        f'</td><td class="t2i-right">{wording.decimal(row["english"])}</td>'
        f'<td class="t2i-right">{wording.decimal(row["own"])}</td>'
        f'<td class="t2i-right"><b>{wording.signed(lost)}</b></td>'
        f'<td><div class="t2i-gap" aria-hidden="true"><i style="left:{left:.1f}%;'
        f'width:{share:.1f}%;background:{tone}"></i></div></td>'
        f'<td class="t2i-right">{row["pairs"]:,}</td>'
        f'<td><a href="{side}" target="_self" aria-label="{escape(key)} side by side">side by side'
        f'</a> · <a href="{images}" target="_self" aria-label="images of {escape(key)} in '
        f'{escape(language)}">images</a></td></tr>'
    )
