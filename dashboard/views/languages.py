"""What a language loses, where on the way it is lost, and by which prompts."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import streamlit as st

from audit.card import wording
from audit.findings import Finding
from dashboard import findings_table, forest, parts, queries, reading
from dashboard.table import Table
from dashboard.views import language_prompts

PROBE = "languages"
STAGES = {
    "token_fertility": "Tokens",
    "truncation_gap": "Prompts cut",
    "encoder_drift": "Encoder drift",
    "alignment_gap": "Alignment",
    "alignment_gap_beyond_rewording": "Beyond a rewording",
    "multilingual_alignment_gap": "Alignment, multilingual CLIP",
    "asked_alignment_gap": "Alignment with the asked text",
    "recognition_gap": "Content recognised",
    "no_person_gap": "No person",
}
"""Metric → what is said of it, in the order in which a prompt becomes a picture."""
GROUPS = {
    "Languages": ("language",),
    "Scripts": ("script",),
    "Arms": ("arm",),
    "Arms by language": ("language", "arm"),
}
"""Grouping → the keys of a finding's slice."""
LADDER = "alignment_gap"
MOST = 60
"""Rows of a plot; more are paged."""


def page() -> None:
    """The page."""
    index, run = parts.current()
    st.title("Languages")
    findings = [f for f in reading.findings(run) if f.probe == PROBE]
    measured = [f for f in findings if f.estimate is not None and f.slice]
    if not measured:
        reasons = dict.fromkeys(f.note for f in findings if f.verdict == "not_tested" and f.note)
        parts.warn("This run compares no languages. " + " ".join(reasons))
        return
    stages = _stages(measured)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        stage = st.selectbox(
            "Stage",
            list(stages),
            index=list(stages).index(LADDER) if LADDER in stages else 0,
            key="stage",
            bind="query-params",
            format_func=stages.__getitem__,
            on_change=parts.first_page,
            args=("rows",),
            width=300,
        )
        there = [name for name, keys in GROUPS.items() if any(_is(f, keys) for f in measured)]
        group = st.segmented_control(
            "Grouped by",
            there,
            default=there[0] if there else None,
            required=True,
            key="by",
            bind="query-params",
            on_change=parts.first_page,
            args=("rows",),
        )
    keys = GROUPS.get(group or "", ("language",))
    with run.connect() as database:
        views = queries.catalog(database)
        table = Table(database, PROBE) if f"uses_{PROBE}" in views else None
        scripts = language_prompts.scripts(table) if table else {}

        def label(f: Finding) -> str:
            values = wording.values(f)
            script = scripts.get(str(f.slice.get("language", "")))
            return f"{values} ({script})" if script and len(set(scripts.values())) > 1 else values

        own = [f for f in measured if f.metric == stage and _is(f, keys)]
        control = [f for f in measured if f.metric == stage and f.slice == {"arm": "rewording"}]
        if keys == ("language",):  # the price of saying it otherwise in English, beside them
            own += control
        own.sort(key=lambda f: f.estimate or 0.0, reverse=_more_is_worse(stage))
        st.subheader(parts.plain(wording.metric(stage).label))
        if own:
            shown = parts.paged(len(own), MOST, key="rows")
            forest.show(own[shown], label, titled=False)
            if len(own) > MOST:
                last = min(shown.stop, len(own))
                st.caption(
                    f"Rows {shown.start + 1:,} to {last:,} of {len(own):,}, those that lose most "
                    "first."
                )
        else:
            parts.warn("This stage was not measured in this grouping.")
        if lost := _lost(own):
            st.html(lost)
        st.header("All stages")
        st.html(_decomposition([f for f in measured if _is(f, keys)], stages, label))
        st.html(
            '<p class="t2i-key">In the order in which a prompt becomes a picture. Tokens are a '
            "ratio to English, drift is a distance; the others are differences from English on "
            "the same seeds.</p>"
        )
        _untested(findings)
        if table is not None:
            language_prompts.show(index, table, own, label)


def _stages(findings: Sequence[Finding]) -> dict[str, str]:
    """Metric → its words: the known stages in their order, then shifts of attributes."""
    there = dict.fromkeys(f.metric for f in findings)
    found = {name: words for name, words in STAGES.items() if name in there}
    for name in there:
        if name not in found:
            found[name] = wording.metric(name).label
    return found


def _is(f: Finding, keys: tuple[str, ...]) -> bool:
    return set(f.slice) == set(keys)


def _more_is_worse(stage: str) -> bool:
    return stage in ("token_fertility", "truncation_gap", "encoder_drift", "no_person_gap")


def _lost(findings: Sequence[Finding]) -> str:
    """Pairs that could not be compared, by reason."""
    reasons: dict[str, int] = {}
    for f in findings:
        outcomes = f.detail.get("outcomes")
        for reason, count in (outcomes if isinstance(outcomes, dict) else {}).items():
            if reason != "compared" and isinstance(count, int):
                reasons[str(reason)] = reasons.get(str(reason), 0) + count
    if not reasons:
        return ""
    said = ", ".join(f"{count:,} {parts.words(reason)}" for reason, count in reasons.items())
    return f'<p class="t2i-key">Pairs that were lost: {said}.</p>'


def _decomposition(findings: Sequence[Finding], stages: dict[str, str], label: Any) -> str:
    """A row for each slice, a column for each stage; each cell with its verdict and interval."""
    rows: dict[str, dict[str, Finding]] = {}
    for f in findings:
        rows.setdefault(label(f), {})[f.metric] = f
    there = [name for name in stages if any(name in row for row in rows.values())]
    head = "".join(f'<th scope="col" class="t2i-right">{escape(stages[n])}</th>' for n in there)
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(f'<td class="t2i-right">{_cell(row.get(stage))}</td>' for stage in there)
        + "</tr>"
        for name, row in rows.items()
    )
    return (
        '<div class="t2i-scroll"><table class="t2i-table t2i-stages"><thead><tr>'
        f'<th scope="col"></th>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _cell(f: Finding | None) -> str:
    if f is None or f.estimate is None:
        return '<span class="t2i-dim">–</span>'
    say = wording.metric(f.metric).show
    ci = f"{say(f.ci[0])} to {say(f.ci[1])}" if f.ci else "no interval"
    sign, word, _ = parts.VERDICTS.get(f.verdict, parts.VERDICTS["inconclusive"])
    kind = f.verdict if f.verdict in parts.VERDICTS else "inconclusive"
    judged = f.threshold is not None
    mark = (
        f'<b class="t2i-sign t2i-{kind}" title="{word}" role="img" aria-label="{word}">{sign}</b>'
    )
    return (
        f'<a href="{parts.link("gallery", finding=f.id)}" target="_self" title="{escape(ci)}; '
        f'{f.n:,} pairs">{say(f.estimate)}</a>{mark if judged else ""}'
    )


def _untested(findings: Sequence[Finding]) -> None:
    left = [
        f for f in findings if f.verdict == "not_tested" or (f.estimate is not None and not f.slice)
    ]
    if left:
        with st.expander(f"Not tested, and what is said of all languages together ({len(left)})"):
            st.html(findings_table.table(left))
