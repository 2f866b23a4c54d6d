"""Pieces that several pages use. Whatever comes from a run is escaped here, for it is untrusted."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any
from urllib.parse import urlencode

import streamlit as st

from audit.findings import Finding

from . import runs

VERDICTS = {
    "exceeds": ("▲", "exceeds", "beyond the reference and its margin"),
    "inconclusive": ("?", "inconclusive", "the interval does not decide, or too few images"),
    "within": ("✓", "within", "within the margin around the reference"),
    "not_tested": ("–", "not tested", "nothing was measured"),
}
"""Verdict → sign, word, meaning. The signs differ, so colour is never needed to tell them apart."""
SOME = 6
"""A longer list of values is counted, not written out."""


def choose_run(labels: list[str]) -> None:
    """The select box of runs, where there are several."""
    if len(labels) > 1:
        st.selectbox("Run", labels, key="run", bind="query-params")


def current() -> tuple[int, runs.Shown]:
    """The chosen run and its place, which the image routes know it by."""
    shown = runs.shown()
    labels = list(shown)
    label = st.session_state.get("run", labels[0])
    index = labels.index(label) if label in labels else 0
    return index, shown[labels[index]]


def wait(run: runs.Shown) -> None:
    """Say so while the run is read for the first time."""
    if not run.ready:
        with st.spinner("Reading the run, once: its index is kept."):
            run.prepare()


def link(page: str, /, **parameters: Any) -> str:
    """The address of a page, escaped for an attribute; it opens the same view anywhere."""
    if len(runs.shown()) > 1:
        label = list(runs.shown())[current()[0]]
        parameters = {"run": label} | parameters
    given = {key: value for key, value in parameters.items() if value not in (None, "")}
    return escape(f"/{page}" + (f"?{urlencode(given, doseq=True)}" if given else ""))


def here(*without: str) -> dict[str, list[str]]:
    """The parameters of the address as it is, those of several values whole, without some."""
    names = [name for name in st.query_params if name not in ("run", *without)]
    return {name: st.query_params.get_all(name) for name in names}


def paged(total: int, rows: int, *, key: str = "page", row: Any = st) -> slice:
    """The places that the chosen page shows of `total`, `rows` a page; buttons where several are.

    Args:
        key: of the buttons, and their name in the address.
        row: the container that holds them.
    """
    pages = -(-total // rows)
    number = row.pagination(pages, key=key, bind="query-params") if pages > 1 else 1
    return slice((number - 1) * rows, number * rows)


def first_page(key: str = "page") -> None:
    """What a change of filter or order does: other rows begin on their first page."""
    if key in st.session_state:
        st.session_state[key] = 1


def plain(text: str) -> str:
    """Text for a Streamlit label or message, which would else be read as Markdown.

    >>> plain("a *b* :red[c]")
    'a \\\\*b\\\\* \\\\:red\\\\[c\\\\]'
    """
    return re.sub(r"([\\`*_{}\[\]()<>#+\-.!|~$:^=])", r"\\\1", text)


def warn(text: str) -> None:
    """A message that may quote the run."""
    st.html(f'<p class="t2i-warn" role="alert">{escape(text)}</p>')


def number(value: Any) -> str:
    """A figure with three significant digits, a dash for none; anything else escaped.

    >>> number(0.61538), number(12000), number(None), number(True), number("<b>")
    ('0.615', '12,000', '–', 'yes', '&lt;b&gt;')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if not isinstance(value, float):
        return "–" if value is None else escape(str(value))
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    whole = value.is_integer() and abs(value) < 1e15
    return f"{value:,.0f}" if whole or abs(value) >= 1000 else f"{value:.3g}"


def percent(share: float | None) -> str:
    """A share in percent, a dash for none.

    >>> percent(0.0314), percent(None)
    ('3.1%', '–')
    """
    return "–" if share is None or math.isnan(share) else f"{share:.1%}"


def percents(ci: Sequence[float] | None) -> str:
    """An interval of a share in percent.

    >>> percents((0.02, 0.1))
    '2.0% to 10.0%'
    """
    return f"{percent(ci[0])} to {percent(ci[1])}" if ci else "–"


def words(name: str) -> str:
    """A metric's or column's name as words, escaped."""
    return escape(name.replace("_", " "))


def verdict(name: str, word: str | None = None) -> str:
    """Sign and word of a verdict, or another word with its sign."""
    kind = name if name in VERDICTS else "inconclusive"
    sign, own, meaning = VERDICTS[kind]
    return (
        f'<span class="t2i-verdict t2i-{kind}" title="{escape(meaning)}">'
        f'<b aria-hidden="true">{sign}</b> {escape(word or own)}</span>'
    )


def slice_of(finding: Finding) -> str:
    """The slice in words, escaped."""
    return ", ".join(f"{words(str(k))}: {escape(_value(v))}" for k, v in finding.slice.items())


def conditions(evidence: Mapping[str, Any]) -> str:
    """Evidence in words, escaped."""
    return "".join(
        f'<span class="t2i-chip">{words(str(key))} = {escape(_value(value))}</span>'
        for key, value in evidence.items()
        if key != "probe"
    )


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        if len(value) > SOME:
            return f"one of {len(value):,}"
        return " or ".join(map(_value, value))
    return "(none)" if value is None else number(value) if isinstance(value, bool) else str(value)


def facts(rows: Iterable[tuple[str, Any]]) -> str:
    """A table of two columns, escaped; empty values are left out."""
    body = "".join(
        f'<tr><th scope="row">{escape(str(key))}</th><td>{_fact(value)}</td></tr>'
        for key, value in rows
        if value not in (None, "", {}, [])
    )
    return f'<table class="t2i-facts">{body}</table>'


def _fact(value: Any) -> str:
    if isinstance(value, Mapping):
        return "".join(
            f'<span class="t2i-pairing"><span class="t2i-dim">{escape(str(k))}</span> '
            f"{_fact(v)}</span> "
            for k, v in value.items()
        )
    if value is None:
        return "–"
    if isinstance(value, list | tuple):
        if len(value) > 16 and all(isinstance(item, int | float) for item in value):
            return f'<span class="t2i-dim">{len(value)} numbers</span>'
        return "<br>".join(_fact(item) for item in value)
    if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value):
        return f"<code>{value}</code>"
    return number(value) if isinstance(value, float | bool) else escape(str(value))


def picture(
    index: int,
    digest: str | None,
    alt: str,
    *,
    thumbnail: bool = True,
    reveal: bool = False,
    instead: str = "no image",
) -> str:
    """An image by its address, or a box that says why there is none."""
    if not digest:
        return f'<div class="t2i-noimage">{escape(instead)}</div>'
    kind = "thumb" if thumbnail else "image"
    address = f"/{kind}/{index}/{escape(digest)}{'?reveal=1' if reveal else ''}"
    return f'<img src="{address}" alt="{escape(alt)}" loading="lazy" decoding="async">'
