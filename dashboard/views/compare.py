"""Two runs compared: what changed, by how much, and whether the change counts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from html import escape
from typing import Any

import streamlit as st

from audit.card import wording
from audit.errors import AuditError
from audit.findings import Finding
from dashboard import compared, findings_table, parts, reading, runs

ROWS = 40
"""Changes a page."""
NOTABLE = "Changes that are shown, verdicts that turned"
EVERYTHING = "All changes"
ALL = "All probes"
SHORTEST = 16
"""Characters of a hash that are shown."""


def page() -> None:
    """The page."""
    st.title("Compare runs")
    labels = list(runs.shown())
    if len(labels) < 2:
        parts.warn("One run is open. Give two to compare them: t2i-audit view RUN RUN")
        return
    with st.container(border=True), st.grid(min_column_width=200):
        first = st.selectbox(
            "Before", labels, key="first", bind="query-params", on_change=parts.first_page
        )
        second = st.selectbox(
            "After", labels, index=1, key="second", bind="query-params", on_change=parts.first_page
        )
        margin = st.number_input(
            "Change that does not count",
            min_value=0.0,
            value=None,
            step=0.01,
            format="%.3f",
            key="margin",
            bind="query-params",
            placeholder="each finding's own margin",
        )
    if first == second:
        parts.warn("Choose two different runs.")
        return
    found = compared.document(runs.shown()[first], runs.shown()[second], margin)
    st.html(_runs(found, first, second))
    st.html(_tally(found))
    if found["gates"]:
        st.html(_gates(found["gates"]))
    st.header("Changes")
    _changes(found, first, second)
    st.header("What differs in the setup")
    st.html(_setup(found["setup"]))
    _only(found, first, second)
    st.download_button(
        "The comparison as JSON",
        json.dumps(found, indent=1),
        "comparison.json",
        "application/json",
        icon=":material/download:",
        on_click="ignore",
    )


def _runs(found: dict[str, Any], first: str, second: str) -> str:
    def side(word: str, label: str, about: dict[str, Any]) -> str:
        made = str(about["created"])[:16].replace("T", " ")
        return (
            f'<div class="t2i-banner"><small>{word}</small><div><b>{escape(label)}</b></div>'
            f"<div>{escape(str(about['model']))}, {escape(made)}<small>weights "
            f"{escape(str(about['weights_sha256'])[:SHORTEST])}</small></div>"
            f'<div><a href="{parts.link("overview", run=label)}" target="_self">findings</a> · '
            f'<a href="{parts.link("gallery", run=label)}" target="_self">images</a></div></div>'
        )

    side_by_side = parts.link("side_by_side", run=second, vary="Runs")
    return (
        f'<div class="t2i-sides">{side("Before", first, found["first"])}'
        f"{side('After', second, found['second'])}</div>"
        f'<p class="t2i-key"><a href="{side_by_side}" target="_self">Images of both on the same '
        "prompts and seeds, side by side</a></p>"
    )


def _tally(found: dict[str, Any]) -> str:
    counts = "".join(
        f'<div class="t2i-count t2i-{name}"><span class="t2i-big">{found["verdicts"].get(name, 0)}'
        f"</span>{parts.verdict(name)}<small>{text}</small></div>"
        for name, text in (
            ("exceeds", "the change lies beyond its margin"),
            ("inconclusive", "these images do not decide"),
            ("within", "the change lies inside its margin"),
            ("not_tested", "not judged; the reason stands beside it"),
        )
    )
    turned = sum(row["first"]["verdict"] != row["second"]["verdict"] for row in found["changes"])
    return (
        f'<div class="t2i-counts">{counts}</div><p class="t2i-key">{found["family"]["changes"]:,} '
        f"changes are judged as one family ({escape(found['family']['method'])}, "
        f"{found['level']:.0%} intervals). {turned:,} findings have another verdict than before: "
        "that alone is no change, two intervals on either side of a line may be the same model.</p>"
    )


def _gates(gates: Sequence[dict[str, Any]]) -> str:
    signs = {"passed": "within", "failed": "exceeds"}
    items = "".join(
        f"<li>{parts.verdict(signs.get(str(gate['state']), 'inconclusive'), str(gate['state']))} "
        f"<code>{escape(str(gate['gate']))}</code></li>"
        for gate in gates
    )
    return f'<div class="t2i-gates"><b>Gates on changes</b><ul>{items}</ul></div>'


def _changes(found: dict[str, Any], first: str, second: str) -> None:
    probes = list(dict.fromkeys(str(row["probe"]) for row in found["changes"]))
    with st.container(horizontal=True, vertical_alignment="bottom"):
        show = st.segmented_control(
            "Show",
            [NOTABLE, EVERYTHING],
            default=NOTABLE,
            required=True,
            key="show",
            bind="query-params",
            on_change=parts.first_page,
        )
        probe = st.selectbox(
            "Probe",
            [ALL, *probes],
            key="probe",
            bind="query-params",
            on_change=parts.first_page,
            width=200,
        )
    rows = [row for row in found["changes"] if probe in (ALL, row["probe"])]
    if show == NOTABLE:
        rows = [row for row in rows if is_notable(row)]
    if not rows:
        parts.warn("No change is shown, and no verdict turned.")
        return
    rows.sort(key=_order)
    shown = rows[parts.paged(len(rows), ROWS)]
    # The place of a probe is that of its clearest change, as that of a metric within it.
    for name in dict.fromkeys(str(row["probe"]) for row in shown):
        st.subheader(parts.plain(name.replace("-", " ").replace("_", " ").capitalize()))
        st.html(_table([row for row in shown if row["probe"] == name], first, second))
    for name, reason in found["not_judged"].items():
        parts.warn(f"{wording.plain(name)} is not judged: {reason}")


def is_notable(row: dict[str, Any]) -> bool:
    """As :func:`audit.compare.report.notable`."""
    turned = row["first"]["verdict"] != row["second"]["verdict"]
    return bool(row["verdict"] == "exceeds" or row["differs"] or turned)


def _order(row: dict[str, Any]) -> tuple[bool, bool, float]:
    """As :func:`audit.compare.report.ordered`."""
    p = 2.0 if row["p"] is None else float(row["p"])
    return row["verdict"] != "exceeds", not row["differs"], p


def _table(rows: Sequence[dict[str, Any]], first: str, second: str) -> str:
    body = ""
    for metric in dict.fromkeys(str(row["metric"]) for row in rows):
        own = [row for row in rows if row["metric"] == metric]
        drawn = [compared.change(row) for row in own]
        low, high = findings_table.axis(drawn)
        about = Counter(str(row["method"]) for row in own if row["method"]).most_common(1)
        usual = about[0][0] if about else ""
        body += (
            f'<tbody><tr class="t2i-metric"><th scope="rowgroup" colspan="5">'
            f"{escape(wording.metric(metric).label)} <small>{escape(usual)}</small></th></tr>"
            + "".join(
                _row(row, change, low, high, first, second, usual)
                for row, change in zip(own, drawn, strict=True)
            )
            + "</tbody>"
        )
    return (
        '<div class="t2i-scroll"><table class="t2i-table t2i-changes"><thead><tr>'
        '<th scope="col">Where</th><th scope="col">Before → after</th>'
        '<th scope="col">Change and margin</th><th scope="col">Verdicts</th>'
        '<th scope="col">Images</th></tr></thead>'
        f"{body}</table></div>"
    )


def _row(
    row: dict[str, Any],
    change: Finding,
    low: float,
    high: float,
    first: str,
    second: str,
    usual: str,
) -> str:
    metric = str(row["metric"])
    show = wording.metric(metric).show
    values = row["values"] or (row["first"]["estimate"], row["second"]["estimate"])
    sides = " → ".join("–" if value is None else show(value) for value in values)
    figure = "not measured"
    if row["estimate"] is not None:
        figure = compared.said(metric, row["estimate"])
    interval = ""
    if row["ci"]:
        interval = " to ".join(compared.said(metric, bound) for bound in row["ci"])
    more = []
    if row["pairs"]:
        more.append(f"{row['pairs']:,} pairs")
    if row["p_adjusted"] is not None:
        more.append(f"p {row['p_adjusted']:.2g}")
    if row["corrected"] is not None:
        more.append(f"corrected {compared.said(metric, row['corrected'])}")
    notes = [str(row["method"])] * (row["method"] not in ("", usual))
    notes += [str(row["reason"])] * bool(row["reason"])
    note = f"<small>{escape(' · '.join(notes))}</small>" if notes else ""
    verdicts = [str(row[side]["verdict"]) for side in ("first", "second")]
    told = parts.verdict(verdicts[1])
    if verdicts[0] != verdicts[1]:
        told = f"{parts.verdict(verdicts[0])} <br>→ {told}"
    return (
        f"<tr><td>{parts.slice_of(change) or 'all images'}"
        f"</td><td>{sides}<small>{' · '.join(more)}</small></td>"
        f'<td><span class="t2i-change"><span><b>{figure}</b> '
        f'<span class="t2i-dim">{interval}</span></span>{parts.verdict(str(row["verdict"]))}</span>'
        f"{findings_table.plot(change, low, high) if row['ci'] else ''}{note}</td><td>{told}</td>"
        f"<td>{_links(row, first, second)}</td></tr>"
    )


def _links(row: dict[str, Any], first: str, second: str) -> str:
    name = str(row["id"])
    ways = [
        ("before", parts.link("gallery", run=first, finding=row["first"]["id"])),
        ("after", parts.link("gallery", run=second, finding=row["second"]["id"])),
        (
            "both",
            parts.link("side_by_side", run=second, vary="Runs", finding=row["second"]["id"]),
        ),
    ]
    return " ".join(
        f'<a href="{address}" target="_self" aria-label="images {word}: {escape(name)}">{word}</a>'
        for word, address in ways
    )


def _setup(rows: Sequence[dict[str, Any]]) -> str:
    if not rows:
        return "<p>Nothing that either run tells of its setup differs from the other.</p>"
    body = "".join(
        f'<tr><th scope="row">{escape(str(row["what"]))}</th><td>{escape(str(row["first"])[:300])}'
        f"</td><td>{escape(str(row['second'])[:300])}</td><td>{escape(str(row['consequence']))}"
        "</td></tr>"
        for row in rows
    )
    return (
        '<div class="t2i-scroll"><table class="t2i-table t2i-setup"><thead><tr><th scope="col">'
        'What</th><th scope="col">Before</th><th scope="col">After</th><th scope="col">'
        f"Consequence</th></tr></thead><tbody>{body}</tbody></table></div>"
    )


def _only(found: dict[str, Any], first: str, second: str) -> None:
    for label, which in ((first, "only_first"), (second, "only_second")):
        if rows := found[which]:
            with st.expander(f"Findings of {parts.plain(label)} alone ({len(rows):,})"):
                shown = rows[parts.paged(len(rows), 5 * ROWS, key=which)]
                try:
                    own = [reading.finding(dict(row)) for row in shown]
                except (TypeError, ValueError, KeyError) as error:
                    raise AuditError(f"a finding is damaged: {error}") from error
                st.html(findings_table.table(own, label))
