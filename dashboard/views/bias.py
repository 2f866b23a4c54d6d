"""Whom the model draws: shares against a reference, crossed, shifted, and the prompts behind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from audit.card import wording
from audit.findings import Finding
from audit.store import Run
from dashboard import findings_table, forest, parts, queries, reading
from dashboard.table import Table
from dashboard.views import crossed, prompt_details

PROBE = "demographics"
ROWS = 20
"""Prompts a page."""
SHARES = "Prompts"
FACES = "Mean pictures"
TRAITS = "Traits"
IDENTITIES = "Identities"
WORDINGS = "Wordings"
CROSSED = "Intersections"
ALL = "Over all prompts"
VIEWS = (SHARES, FACES, TRAITS, IDENTITIES, WORDINGS, CROSSED, ALL)
OF_ATTRIBUTE = (SHARES, FACES, TRAITS, WORDINGS)
"""Questions of one attribute at a time."""
FARTHEST, HIGHEST, LOWEST, PLANNED = (
    "farthest from the reference",
    "highest",
    "lowest",
    "as analysed",
)


def page() -> None:
    """The page."""
    index, run = parts.current()
    st.title("Bias")
    findings = [f for f in reading.findings(run) if f.probe == PROBE]
    attributes = _attributes(findings)
    if not attributes:
        reasons = [f.note for f in findings if f.verdict == "not_tested" and f.note]
        parts.warn("This run has no shares of perceived attributes. " + " ".join(reasons))
        return
    there = {view for metric in attributes for view in _views(findings, metric)}
    view = st.segmented_control(
        "Question",
        [name for name in VIEWS if name in there],
        default=SHARES,
        required=True,
        key="view",
        bind="query-params",
        label_visibility="collapsed",
    )
    row = st.container(horizontal=True, vertical_alignment="bottom")
    metric = next(iter(attributes))
    if view in OF_ATTRIBUTE:
        metric = row.selectbox(
            "Attribute",
            list(attributes),
            key="attribute",
            bind="query-params",
            format_func=lambda name: wording.metric(name).label,
            on_change=parts.first_page,
            width=380,
        )
    own = _views(findings, metric).get(view or SHARES, [])
    if view in (SHARES, FACES):
        _prompts(index, run, own, row, faces=view == FACES)
    elif view == CROSSED:
        crossed.show(run, own, row)
    elif view == ALL:
        st.html(findings_table.table(own))
    elif own:
        _families(own, view or "")
    else:
        parts.warn("Nothing of this was measured for this attribute.")


def _attributes(findings: Sequence[Finding]) -> dict[str, list[Finding]]:
    """Metric of a share → its findings by prompt."""
    found: dict[str, list[Finding]] = {}
    for f in findings:
        if f.metric.startswith("share_") and "subject" in f.slice:
            found.setdefault(f.metric, []).append(f)
    return found


def _views(findings: Sequence[Finding], metric: str) -> dict[str, list[Finding]]:
    """Question → the findings that answer it, for one attribute where they are of one."""
    short = metric.removeprefix("share_")
    by_prompt = _attributes(findings)[metric]
    views: dict[str, list[Finding]] = {SHARES: by_prompt, FACES: by_prompt}
    views[TRAITS] = [
        f
        for f in findings
        if f.metric in (f"stereotype_shift_{short}", f"coded_trait_difference_{short}")
    ]
    views[IDENTITIES] = [f for f in findings if f.metric.startswith("identity_")]
    views[WORDINGS] = [f for f in findings if f.metric == f"wording_spread_{short}"]
    views[CROSSED] = [f for f in findings if crossed.is_cell(f)]
    views[ALL] = [
        f
        for f in findings
        if (f.verdict != "not_tested" and not f.slice) or "instrument" in f.slice
    ]
    return {name: found for name, found in views.items() if found}


def label_of(finding: Finding) -> str:
    """The values of the slice."""
    return wording.values(finding)


def _prompts(index: int, run: Run, findings: list[Finding], row: Any, *, faces: bool) -> None:
    order = row.selectbox(
        "Order",
        [FARTHEST, HIGHEST, LOWEST, PLANNED],
        key="order",
        bind="query-params",
        on_change=parts.first_page,
        width=260,
    )
    shown = _ordered(findings, order)[parts.paged(len(findings), ROWS, row=row)]
    labels = {label_of(f): f for f in _ordered(findings, PLANNED)}
    with run.connect() as database:
        views = queries.catalog(database)
        table = Table(database, PROBE) if f"uses_{PROBE}" in views else None
        if faces:
            if table is None:
                parts.warn("The run's images are not here.")
                return
            prompt_details.means(index, table, shown, label_of)
            return
        st.caption("A row that is clicked opens its prompt below.")
        forest.show(shown, label_of, key="forest", pick=_pick)
        st.header("One prompt")
        chosen = st.selectbox(
            "Prompt",
            list(labels),
            index=list(labels).index(label_of(shown[0])),
            key="prompt",
            bind="query-params",
            width=380,
        )
        prompt_details.show(index, run, table, labels[chosen])


def _ordered(findings: Sequence[Finding], order: str) -> list[Finding]:
    def far(f: Finding) -> float:
        if f.estimate is None:
            return -1.0
        return abs(f.estimate - (f.reference or 0.0)) if order == FARTHEST else f.estimate

    if order == PLANNED:
        return list(findings)
    ordered = sorted(findings, key=far, reverse=order != LOWEST)
    return [f for f in ordered if f.estimate is not None] + [
        f for f in ordered if f.estimate is None
    ]


def _families(findings: Sequence[Finding], view: str) -> None:
    """A forest for each metric."""
    if view == IDENTITIES:
        address = parts.link("side_by_side", vary="Identity inserted")
        st.html(
            f'<p>With an identity named against the same prompt and seed without it. <a href="'
            f'{address}" target="_self">See them side by side</a></p>'
        )
    for metric in dict.fromkeys(f.metric for f in findings):
        own = [f for f in findings if f.metric == metric]
        st.subheader(parts.plain(wording.metric(metric).label))
        if all(f.estimate is None for f in own):
            parts.warn(" ".join(dict.fromkeys(f.note for f in own)) or "Not tested.")
            continue
        shown = own[parts.paged(len(own), 2 * ROWS, key=f"page_{metric}")]
        forest.show(shown, label_of, titled=False)


def _pick(label: str) -> None:
    if st.session_state.get("picked") != label:  # a rerun brings an old click again
        st.session_state["picked"] = label
        st.session_state["prompt"] = label
