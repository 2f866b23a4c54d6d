"""Findings before and after people's labels."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import streamlit as st

from audit.errors import AuditError
from audit.findings import Finding
from audit.labels import Labels
from audit.recompute import DOCUMENT, PROBE, changes
from audit.store import Run
from dashboard import address, findings_table, jobs, parts, reading
from dashboard.views import card, review_people

SHOWN = ("verdict changed", "changed", "all")
Pair = tuple[Finding | None, Finding | None]


def show(run: Run, labels: Labels) -> None:
    """The command, how it goes, and its result."""
    given = labels.current()
    document = _document(run)
    job = jobs.of(run, jobs.RECOMPUTE)
    running = job is not None and job.running
    raters = {label.author for label in given}
    st.html(
        f'<p class="t2i-lead"><b>{len(given):,}</b> labels of {len({x.image for x in given}):,} '
        f"images by {len(raters):,} rater{'' if len(raters) == 1 else 's'} count now. Where a "
        "prompt has at least 20 labelled images, its share is estimated from labels and instrument "
        "together (prediction-powered inference). Nothing is generated and no model is loaded.</p>"
    )
    if weak := _unreliable(labels):
        parts.warn(f"Not used, for raters do not agree on them: {weak}")
    with st.container(horizontal=True, vertical_alignment="center"):
        pressed = st.button(
            "Recompute findings with labels",
            key="recompute",
            type="primary",
            icon=":material/calculate:",
            disabled=running or not (given or document),
        )
        trusted = st.checkbox(
            "Read files that the run's settings name",
            key="read_files",
            help="Only where you trust where this run comes from.",
        )
    if pressed:
        jobs.recompute(run, read_files=trusted)
        st.rerun()
    if running:
        jobs.watch(run, jobs.RECOMPUTE)
    elif job is not None and job.error:
        parts.warn(f"not recomputed: {job.error}")
    if document is not None:
        _result(run, labels, document)
    elif not given:
        parts.warn("Nobody has labelled an image of this run yet.")


def _document(run: Run) -> dict[str, Any] | None:
    found = run.read_json(DOCUMENT)
    if not found:
        return None
    try:
        return {
            "made": str(found["made"]),
            "labels": dict(found["labels"]),
            "rows": (list(found["before"]), list(found["after"])),
            "before": [reading.finding(dict(row)) for row in found["before"]],
            "after": [reading.finding(dict(row)) for row in found["after"]],
        }
    except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise AuditError(f"{run.path / DOCUMENT} is damaged: {error}") from error


def _unreliable(labels: Labels) -> str:
    said = []
    for name in labels.attributes:
        mine = labels.current(name)
        if len({label.author for label in mine}) > 1:
            found = review_people.alpha(str(labels.run.path), name, labels.state())
            if not found.reliable:
                said.append(f"{name}: {found}")
    return "; ".join(said)


def _result(run: Run, labels: Labels, document: dict[str, Any]) -> None:
    st.header("Before and after")
    about, (old, new) = document["labels"], document["rows"]
    made = escape(document["made"].replace("T", " ").removesuffix("Z"))
    raters = ", ".join(escape(str(name)) for name in about.get("raters") or ())
    st.html(
        f'<p class="t2i-dim">Recomputed {made} UTC with {parts.number(about.get("count"))} labels '
        f"of {parts.number(about.get('images'))} images{' by ' + raters if raters else ''}.</p>"
    )
    now = [row for row in run.read_json("findings.json", []) if row.get("probe") == PROBE]
    if now != new:
        parts.warn(
            "The findings were analysed again since, without these labels: recompute them to bring "
            "the labels in."
        )
    elif labels.state()[0] != about.get("last") and labels.current():
        st.info("Labels were given or undone since. Recompute to bring them in.")
    card.renew(run)
    ids = {change.id for change in changes(old, new)}
    before = {f.id: f for f in document["before"]}
    after = {f.id: f for f in document["after"]}
    pairs: list[Pair] = [
        (before.get(name), after.get(name)) for name in dict.fromkeys([*after, *before])
    ]
    moved = [pair for pair in pairs if _id(pair) in ids]
    turned = [(b, a) for b, a in moved if b is None or a is None or b.verdict != a.verdict]
    by_kind = dict(zip(SHOWN, (turned, moved, pairs), strict=True))
    st.html(
        f"<p><b>{len(turned):,}</b> verdict{'' if len(turned) == 1 else 's'} changed, "
        f"<b>{len(moved):,}</b> of {len(pairs):,} findings.</p>"
    )
    address.one_of("show", SHOWN, "findings")
    chosen = st.segmented_control(
        "Findings",
        SHOWN,
        default="changed",
        required=True,
        key="show",
        bind="query-params",
        label_visibility="collapsed",
    )
    kept = by_kind[str(chosen)]
    if not kept:
        st.html("<p>None.</p>")
        return
    st.html(table(kept))
    st.caption(
        "Upper mark: before; lower: after; dashed line and band: the reference and its margin."
    )


def table(pairs: Sequence[Pair]) -> str:
    """Findings before and after, those of a metric together and on one axis."""
    metrics: dict[str, list[Pair]] = {}
    for pair in pairs:
        metrics.setdefault(_one(pair).metric, []).append(pair)
    body = "".join(_metric(name, found) for name, found in metrics.items())
    return (
        '<div class="t2i-scroll"><table class="t2i-table t2i-afters"><thead><tr>'
        '<th scope="col">Where</th><th scope="col" class="t2i-right">Before</th>'
        '<th scope="col" class="t2i-right">After</th>'
        '<th scope="col">Interval and reference</th><th scope="col">Verdict</th></tr></thead>'
        f"{body}</table></div>"
    )


def _metric(name: str, pairs: list[Pair]) -> str:
    low, high = findings_table.axis([f for pair in pairs for f in pair if f is not None])
    rows = "".join(_row(pair, low, high) for pair in pairs)
    old = dict.fromkeys(b.method for b, _ in pairs if b is not None and b.method)
    new = dict.fromkeys(a.method for _, a in pairs if a is not None and a.method)
    about = " · ".join(old) if old.keys() == new.keys() else ""
    if not about and (old or new):
        about = f"before: {' · '.join(old) or 'none'}; after: {' · '.join(new) or 'none'}"
    return (
        f'<tbody><tr class="t2i-metric"><th scope="rowgroup" colspan="5">{parts.words(name)}'
        f"<small>{escape(about)}</small></th></tr>{rows}</tbody>"
    )


def _row(pair: Pair, low: float, high: float) -> str:
    before, after = pair
    one = _one(pair)
    plots = "".join(
        f'<div class="t2i-{kind}">{findings_table.plot(f, low, high)}</div>'
        for kind, f in (("before", before), ("after", after))
        if f is not None
    )
    old = parts.verdict(before.verdict) if before else "none"
    new = parts.verdict(after.verdict) if after else "none"
    verdict = new
    if old != new:
        verdict = f'{old}<br><span role="img" aria-label="became">→</span> {new}'
    images = parts.link("gallery", finding=one.id)
    return (
        f'<tr><td><a href="{images}" target="_self">{parts.slice_of(one) or "all images"}</a></td>'
        f"{_figure(before)}{_figure(after)}<td>{plots}</td><td>{verdict}</td></tr>"
    )


def _figure(f: Finding | None) -> str:
    if f is None:
        return '<td class="t2i-right">–</td>'
    interval = f"[{parts.number(f.ci[0])}, {parts.number(f.ci[1])}]" if f.ci else ""
    told = f"corrected for {f.corrected_for}" if f.corrected_for else "not corrected"
    return (
        f'<td class="t2i-right" title="{escape(told)}"><b>{parts.number(f.estimate)}</b>'
        f"<small>{interval}</small></td>"
    )


def _one(pair: Pair) -> Finding:
    found = pair[1] or pair[0]
    assert found is not None
    return found


def _id(pair: Pair) -> str:
    return _one(pair).id
