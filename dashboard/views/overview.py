"""What was found, what was not tested, and of what model."""

from __future__ import annotations

from html import escape
from typing import Any

import streamlit as st

from audit import plugins
from audit.card import documents
from audit.findings import Finding
from audit.store import column_safe
from dashboard import findings_table, parts, queries, reading, runs
from dashboard.table import Table

FEW = 40
"""More findings are folded up, a probe a fold."""


def page() -> None:
    """The page."""
    _, run = parts.current()
    st.title("Overview")
    info, findings = documents.info(run), reading.findings(run)
    made = escape(str(info.get("created", "")).replace("T", " ").removesuffix("Z"))
    st.html(
        f'<p class="t2i-dim">Model <b>{escape(str(info.get("model", "?")))}</b>, '
        f"suite {escape(str(info.get('suite', '?')))}, made {made} UTC</p>"
    )
    st.html(_counts(findings))
    if gates := documents.gates(run):
        st.html(_gates(gates))
    st.header("Findings")
    _findings(findings)
    st.header("Not tested, failed, missing")
    _gaps(run, findings)
    st.header("What it cost")
    _cost(documents.energy(run))
    st.header("About this run")
    st.html(_about(info))


def _counts(findings: list[Finding]) -> str:
    """How many findings of each verdict, and in which probes."""
    counts = {name: sum(f.verdict == name for f in findings) for name in parts.VERDICTS}
    tiles = "".join(
        f'<div class="t2i-count t2i-{name}"><span class="t2i-big">{count:,}</span>'
        f"{parts.verdict(name)}<small>{escape(parts.VERDICTS[name][2])}</small></div>"
        for name, count in counts.items()
    )
    rows = "".join(
        _share(probe, [f for f in findings if f.probe == probe])
        for probe in dict.fromkeys(f.probe for f in findings)
    )
    return (
        f'<div class="t2i-counts">{tiles}</div><table class="t2i-table t2i-shares"><caption '
        'class="t2i-hidden">Verdicts by probe</caption><thead class="t2i-hidden"><tr>'
        '<th scope="col">Probe</th><th scope="col">Share of verdicts</th>'
        f'<th scope="col">Counts</th></tr></thead><tbody>{rows}</tbody></table>'
    )


def _share(probe: str, mine: list[Finding]) -> str:
    counts = {name: sum(f.verdict == name for f in mine) for name in parts.VERDICTS}
    bars = "".join(
        f'<i class="t2i-{name}" style="flex:{count}"></i>'
        for name, count in counts.items()
        if count
    )
    told = "".join(
        f'<span class="t2i-{name}" title="{parts.VERDICTS[name][1]}"><b aria-hidden="true">'
        f'{parts.VERDICTS[name][0]}</b> {count:,}<span class="t2i-hidden"> '
        f"{parts.VERDICTS[name][1]}</span></span>"
        for name, count in counts.items()
        if count
    )
    address = parts.link("overview", probe=probe)
    return (
        f'<tr><th scope="row"><a href="{address}" target="_self">{_title(probe)}</a></th>'
        f'<td><div class="t2i-share" aria-hidden="true">{bars}</div></td>'
        f'<td class="t2i-told">{told}</td></tr>'
    )


def _title(probe: str) -> str:
    return escape(probe.replace("-", " ").replace("_", " ").capitalize())


def _findings(findings: list[Finding]) -> None:
    if not findings:
        parts.warn("This run has no findings yet: the analysis has not been reached.")
        return
    words = {parts.VERDICTS[name][1]: name for name in parts.VERDICTS}
    there = {f.verdict for f in findings}
    boxes = st.grid(min_column_width=370)
    with boxes:
        chosen = st.segmented_control(
            "Verdict",
            [word for word, name in words.items() if name in there],
            key="verdict",
            bind="query-params",
            selection_mode="multi",
        )
        probes = st.multiselect(
            "Probe",
            list(dict.fromkeys(f.probe for f in findings)),
            key="probe",
            bind="query-params",
            placeholder="all",
        )
    kept = [
        f
        for f in findings
        if (not chosen or f.verdict in {words[word] for word in chosen})
        and (not probes or f.probe in probes)
    ]
    few = len(kept) <= FEW or bool(probes)
    folds = ""
    for probe in dict.fromkeys(f.probe for f in kept):
        mine = [f for f in kept if f.probe == probe]
        count = f"{len(mine):,} finding{'' if len(mine) == 1 else 's'}"
        folds += (
            f'<details class="t2i-fold"{" open" if few else ""}><summary><h3>{_title(probe)}</h3>'
            f'<span class="t2i-dim">{count}</span></summary>{findings_table.table(mine)}</details>'
        )
    st.html(folds or '<p class="t2i-dim">No finding is left.</p>')


def _cost(energy: dict[str, Any]) -> None:
    steps = energy.get("steps") or {}
    if not steps:
        st.html('<p class="t2i-dim">This run does not say what it cost.</p>')
        return
    columns = {
        "images": "Images",
        "seconds": "Time",
        "cpu_hours": "CPU hours",
        "gpu_hours": "GPU hours",
        "kwh": "kWh",
        "co2_kg": "CO₂, kg",
    }
    there = [name for name in columns if any(step.get(name) is not None for step in steps.values())]
    head = "".join(f'<th scope="col" class="t2i-right">{columns[n]}</th>' for n in there)
    body = "".join(
        f'<tr><th scope="row">{parts.words(str(name))}</th>'
        + "".join(f'<td class="t2i-right">{_amount(n, step.get(n))}</td>' for n in there)
        + "</tr>"
        for name, step in steps.items()
    )
    missing = [columns[name].split(",")[0] for name in ("kwh", "co2_kg") if name not in there]
    why = (
        f"<small>{' and '.join(missing)} could not be measured, and no power was declared.</small>"
        if missing
        else ""
    )
    st.html(
        '<div class="t2i-scroll"><table class="t2i-table t2i-narrow"><thead><tr>'
        f'<th scope="col">Step</th>{head}</tr></thead>{body}</table></div>{why}'
    )


def _amount(name: str, value: Any) -> str:
    amount = documents.finite(value)
    if amount is None:
        return "–"
    if name == "seconds":
        hours, minutes = int(amount // 3600), int(amount % 3600 // 60)
        if hours:
            return f"{hours:,} h {minutes} min"
        return f"{minutes} min {amount % 60:.0f} s" if minutes else f"{amount:.0f} s"
    return f"{amount:,.0f}" if name == "images" else parts.number(amount)


def _gates(gates: list[dict[str, Any]]) -> str:
    signs = {"passed": ("✓", "within"), "failed": ("▲", "exceeds")}
    items = []
    for gate in gates:
        state = str(gate.get("state", "?"))
        sign, kind = signs.get(state, ("?", "inconclusive"))
        items.append(
            f'<li><span class="t2i-verdict t2i-{kind}"><b aria-hidden="true">{sign}</b> '
            f"{escape(state)}</span> <code>{escape(str(gate.get('gate', '')))}</code></li>"
        )
    return f'<div class="t2i-gates"><b>Gates</b><ul>{"".join(items)}</ul></div>'


def _gaps(run: runs.Shown, findings: list[Finding]) -> None:
    rows: list[tuple[str, Any]] = []
    parts.wait(run)
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
        for name, about in documents.mapping(run, "detectors.json", of_mappings=True).items()
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
