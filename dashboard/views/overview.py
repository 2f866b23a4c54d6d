"""What was found, what was not tested, and of what model."""

from __future__ import annotations

from html import escape
from typing import Any

import streamlit as st

from audit import plugins
from audit.findings import Finding
from audit.store import Run, column_safe
from dashboard import findings_table, parts, queries, reading
from dashboard.table import Table


def page() -> None:
    """The page."""
    _, run = parts.current()
    st.title("Overview")
    info, findings = run.info, reading.findings(run)
    made = escape(str(info.get("created", "")).replace("T", " ").removesuffix("Z"))
    st.html(
        f'<p class="t2i-dim">Model <b>{escape(str(info.get("model", "?")))}</b>, '
        f"suite {escape(str(info.get('suite', '?')))}, made {made} UTC</p>"
    )
    counts = {name: sum(f.verdict == name for f in findings) for name in parts.VERDICTS}
    st.html(
        '<div class="t2i-counts">'
        + "".join(
            f'<div class="t2i-count t2i-{name}"><span class="t2i-big">{count}</span>'
            f"{parts.verdict(name)}<small>{escape(parts.VERDICTS[name][2])}</small></div>"
            for name, count in counts.items()
        )
        + "</div>"
    )
    if gates := run.read_json("gates.json", []):
        st.html(_gates(gates))
    st.header("Findings")
    _findings(findings)
    st.header("Not tested, failed, missing")
    _gaps(run, findings)
    st.header("About this run")
    st.html(_about(info))


def _findings(findings: list[Finding]) -> None:
    if not findings:
        parts.warn("This run has no findings yet: the analysis has not been reached.")
        return
    words = {parts.VERDICTS[name][1]: name for name in parts.VERDICTS}
    there = {f.verdict for f in findings}
    chosen = st.segmented_control(
        "Verdict",
        [word for word, name in words.items() if name in there],
        key="verdict",
        bind="query-params",
        selection_mode="multi",
    )
    kept = [f for f in findings if not chosen or f.verdict in {words[word] for word in chosen}]
    for probe in dict.fromkeys(f.probe for f in kept):
        mine = [f for f in kept if f.probe == probe]
        st.subheader(parts.plain(probe.replace("-", " ").replace("_", " ").capitalize()))
        st.html(findings_table.table(mine))


def _gates(gates: list[dict[str, Any]]) -> str:
    signs = {"passed": ("✓", "within"), "failed": ("▲", "exceeds")}
    items = []
    for gate in gates:
        sign, kind = signs.get(gate["state"], ("?", "inconclusive"))
        items.append(
            f'<li><span class="t2i-verdict t2i-{kind}"><b aria-hidden="true">{sign}</b> '
            f"{escape(gate['state'])}</span> <code>{escape(gate['gate'])}</code></li>"
        )
    return f'<div class="t2i-gates"><b>Gates</b><ul>{"".join(items)}</ul></div>'


def _gaps(run: Run, findings: list[Finding]) -> None:
    rows: list[tuple[str, Any]] = []
    with run.connect() as database:
        views = queries.catalog(database)
        tables = {probe: Table(database, probe) for probe in queries.probes(views)}
        outcomes = {probe: table.outcomes() for probe, table in tables.items()}
        errors: list[tuple[str, int]] = []
        if "error" in views.get("records", ()):
            errors = database.execute(
                "SELECT error, count(*) FROM records WHERE outcome <> 'ok' AND error <> '' "
                "GROUP BY 1 ORDER BY 2 DESC LIMIT 10"
            ).fetchall()
    kinds = list(dict.fromkeys(["ok", *(kind for row in outcomes.values() for kind in row)]))
    head = "".join(f'<th scope="col" class="t2i-right">{parts.words(k)}</th>' for k in kinds)
    body = "".join(
        f'<tr><th scope="row">{parts.words(probe)}</th>'
        + "".join(
            f'<td class="t2i-right">{_count(probe, kind, row.get(kind, 0))}</td>' for kind in kinds
        )
        + "</tr>"
        for probe, row in outcomes.items()
    )
    if outcomes:
        st.html(
            f'<div class="t2i-scroll"><table class="t2i-table t2i-narrow"><thead><tr>'
            f'<th scope="col">Images by outcome</th>{head}</tr></thead>{body}</table></div>'
        )
    rows += [(f"Error, {count:,} ×", error) for error, count in errors]
    rows += [
        (f"Detector {name}", f"unavailable: {about['unavailable']}")
        for name, about in run.read_json("detectors.json").items()
        if "unavailable" in about
    ]
    known = set(outcomes) | {column_safe(f.probe) for f in findings}
    rows += [
        (f"Probe {name}", "not part of this run")
        for name in plugins.names("probes")
        if column_safe(name) not in known
    ]
    rows += [(f.id, f.note or "not tested") for f in findings if f.verdict == "not_tested"]
    st.html(parts.facts(rows) if rows else "<p>No probe and no detector is missing.</p>")


def _count(probe: str, kind: str, count: int) -> str:
    if not count:
        return '<span class="t2i-dim">0</span>'
    address = parts.link("gallery", probe=probe, outcome=kind)
    return f'<a href="{address}" target="_self">{count:,}</a>'


def _about(info: dict[str, Any]) -> str:
    backend = dict(info.get("backend", {}))
    weights = backend.pop("weights", None)
    spec = {
        key: value for key, value in info.get("spec", {}).items() if value not in (None, {}, [], ())
    }
    return parts.facts(
        [
            ("Model", info.get("model")),
            ("Weights (SHA-256)", weights),
            ("Sampler", info.get("sampler")),
            ("Backend", backend),
            ("Settings", spec),
            ("Versions", info.get("versions")),
            ("Command", info.get("command")),
        ]
    )
