"""What each safety filter blocks and misses at any threshold, and for whom."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from html import escape

import duckdb
import pandas as pd
import pyarrow as pa
import streamlit as st

from audit.findings import Finding
from audit.store import Run, column_safe
from dashboard import (
    address,
    bars,
    charts,
    filter_charts,
    filter_rates,
    filter_scores,
    parts,
    reading,
)
from dashboard.filter_charts import Fixed
from dashboard.filter_rates import Confusion, Gap, Share
from dashboard.filter_scores import CELLS, SCORES, Curves, Held, Outline, Versions
from dashboard.queries import Catalog, catalog
from dashboard.threshold import roundest, slider
from dashboard.views import filter_sections

PROBE = "safety-filters"
SHOWN = 14
FEW = 6


def page() -> None:
    """The page."""
    index, run = parts.current()
    st.title("Filters")
    with run.connect() as database:
        views = catalog(database)
        if SCORES not in views:
            parts.warn("This run holds no scores of filters: 'safety-filters' was not analysed.")
            return
        findings = [f for f in reading.findings(run) if f.probe == PROBE]
        stamp = (run.path / "tables").stat().st_mtime_ns
        names = _filters(database, str(run.path), stamp)
        name = _chosen(names)
        seen = _outline(database, str(run.path), stamp, name)
        at = _threshold(seen, name)
        held = _held(database, views, str(run.path), stamp, name)
        counts = held.at(at)
        paired = _versions(database, views, str(run.path), stamp, name)
        found = filter_rates.confusion(counts)
        _at_threshold(database, run, stamp, name, seen, at, counts, found)
        _disparity(
            [*filter_rates.paired_gaps(paired, at), *filter_rates.perceived_gaps(counts)], run
        )
        curves = _curves(database, str(run.path), stamp, name)
        _every_threshold(curves, findings, name, at, found)
        _images(database, views, index, held, at, found)
        filter_sections.concepts(database, views, name)
        filter_sections.agreement(findings, names)
        filter_sections.flips(database, views, name)


def _chosen(names: list[str]) -> str:
    address.one_of("filter", names, "filter")
    # The options of a segmented control are read as Markdown, those of a select box are not.
    if len(names) > FEW or not all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 .-]*", n) for n in names):
        return str(st.selectbox("Filter", names, key="filter", bind="query-params"))
    found = st.segmented_control(
        "Filter", names, default=names[0], required=True, key="filter", bind="query-params"
    )
    return str(found)


@st.cache_data(max_entries=64, show_spinner=False)
def _filters(_database: duckdb.DuckDBPyConnection, path: str, stamp: int) -> list[str]:
    return filter_scores.filters(_database)


@st.cache_data(max_entries=64, show_spinner=False)
def _outline(_database: duckdb.DuckDBPyConnection, path: str, stamp: int, name: str) -> Outline:
    return filter_scores.outline(_database, name)


@st.cache_resource(max_entries=64, show_spinner=False)
def _curves(
    _database: duckdb.DuckDBPyConnection, path: str, stamp: int, name: str
) -> tuple[Curves, Fixed] | None:
    found = filter_scores.curves(_database, name)
    return (found, filter_charts.fixed(found)) if found else None


# Arrays are shared by all readers and never written to: at a million images 16 MB a filter.
@st.cache_resource(max_entries=6, show_spinner=False)
def _held(
    _database: duckdb.DuckDBPyConnection, _views: Catalog, path: str, stamp: int, name: str
) -> Held:
    return filter_scores.held(_database, _views, name)


@st.cache_resource(max_entries=6, show_spinner=False)
def _versions(
    _database: duckdb.DuckDBPyConnection, _views: Catalog, path: str, stamp: int, name: str
) -> list[Versions]:
    return filter_scores.versions(_database, _views, name)


@st.cache_resource(max_entries=64, show_spinner=False)
def _histogram(
    _database: duckdb.DuckDBPyConnection, path: str, stamp: int, name: str, low: float, high: float
) -> pa.Table:
    return filter_charts.arrow(filter_scores.histogram(_database, name, low, high))


def _threshold(seen: Outline, name: str) -> float:
    """The slider; it starts where it decides as the filter itself does."""
    upto = math.inf if seen.lowest_blocked is None else seen.lowest_blocked
    above = -math.inf if seen.highest_passed is None else seen.highest_passed
    own = roundest(above, upto) if seen.threshold else upto
    at = slider(
        "Threshold: an image is blocked from this score on",
        f"t_{column_safe(name)}",
        seen.low,
        seen.high,
        own,
    )
    if not seen.threshold:
        said = "This filter's own decisions are no threshold of this score; shown is the score's."
    elif seen.lowest_blocked is None:
        said = f"By its own decision this filter blocks none of {seen.images:,} images."
    elif seen.highest_passed is None:
        said = f"By its own decision this filter blocks all {seen.images:,} images."
    else:
        said = (
            f"By its own decision it blocks {seen.blocked:,} of {seen.images:,} images, as any "
            f"threshold above {parts.number(above)} up to {parts.number(upto)} does."
        )
    st.caption(parts.plain(said))
    return at


def _at_threshold(
    database: duckdb.DuckDBPyConnection,
    run: Run,
    stamp: int,
    name: str,
    seen: Outline,
    at: float,
    counts: pd.DataFrame,
    found: Confusion,
) -> None:
    st.header("At this threshold")
    if counts.empty:
        parts.warn("What is truly on these images is not known, so no error can be counted.")
        return
    with st.grid(min_column_width=380, gap="large") as grid:
        with grid.container():
            st.html(_confusion(found, name, at))
        with grid.container():
            scores = _histogram(database, str(run.path), stamp, name, seen.low, seen.high)
            charts.draw(
                filter_charts.histogram(),
                {"scores": scores, "at": filter_charts.threshold(at)},
                height=230,
                alt=f"Scores of restricted and of harmless images; threshold {at:g}",
            )
    st.html(_shares(filter_rates.shares(counts)))
    st.caption(
        "Wilson: prompts as clusters, for images of one prompt resemble each other. "
        "Clopper-Pearson: exact, images as independent. Both 95%."
    )


def _confusion(found: Confusion, name: str, at: float) -> str:
    rows = (
        ("Restricted", ("hit", found.blocked_restricted), ("miss", found.missed)),
        ("Harmless", ("over", found.blocked_harmless), ("pass", found.passed_harmless)),
    )
    words = {
        "hit": "blocked as it should be",
        "miss": "missed",
        "over": "blocked falsely",
        "pass": "passed as it should",
    }
    body = ""
    for truth, *cells in rows:
        total = sum(count for _, count in cells)
        body += f'<tr><th scope="row">{truth}<small>{total:,} images</small></th>'
        for kind, count in cells:
            share = count / total if total else math.nan
            body += (
                f'<td class="t2i-cell t2i-cell-{kind}"><span class="t2i-big">{count:,}</span>'
                f"<b>{parts.percent(share)}</b><small>{words[kind]}</small></td>"
            )
        body += "</tr>"
    return (
        '<table class="t2i-confusion"><caption>'
        f"{escape(name)}, blocked from {parts.number(at)} on</caption><thead><tr><td></td>"
        f'<th scope="col">Blocked</th><th scope="col">Passed</th></tr></thead><tbody>{body}'
        "</tbody></table>"
    )


def _shares(shares: Iterable[Share]) -> str:
    body = "".join(
        f'<tr><th scope="row">{one.name}<small>{one.meaning}</small></th>'
        f'<td class="t2i-right"><b>{parts.percent(one.found.estimate)}</b>'
        f"<small>{one.found.events:,} of {one.found.n:,}</small></td>"
        f"<td>{bars.interval(one.found.estimate, one.found.ci, 0, 1)}</td>"
        f'<td class="t2i-right">{parts.percents(one.found.ci)}<small>{one.found.clusters:,} prompts'
        f'</small></td><td class="t2i-right">{parts.percents(one.exact)}</td></tr>'
        for one in shares
    )
    return (
        '<div class="t2i-scroll"><table class="t2i-table t2i-rates"><thead><tr><th scope="col">'
        'Rate</th><th scope="col" class="t2i-right">Estimate</th><th scope="col">0 to 100%</th>'
        '<th scope="col" class="t2i-right">Wilson</th><th scope="col" class="t2i-right">'
        f"Clopper-Pearson</th></tr></thead><tbody>{body}</tbody></table></div>"
    )


def _disparity(gaps: Sequence[Gap], run: Run) -> None:
    st.header("Who is blocked falsely")
    if not gaps:
        st.html(
            '<p class="t2i-dim">No two groups or languages can be compared here: the run has no '
            "paired versions of a harmless scene and perceives no groups, or was analysed by an "
            "older version.</p>"
        )
        return
    reach = max(0.1, *(abs(bound) for gap in gaps for bound in gap.ci))
    low, high = -min(1.0, reach * 1.05), min(1.0, reach * 1.05)
    titles = {
        "paired": "The same scene and seed in versions",
        "perceived": "Groups perceived in images of the same prompts",
    }
    body = ""
    for design, title in titles.items():
        mine = [gap for gap in gaps if gap.design == design]
        if mine:
            body += f'<tr class="t2i-metric"><th scope="rowgroup" colspan="5">{title}</th></tr>'
        body += "".join(
            f'<tr><th scope="row">{parts.words(gap.attribute)}: {escape(gap.group)}'
            f"<small>{gap.n:,} images of {gap.clusters:,} "
            f"{'scenes' if design == 'paired' else 'prompts'}</small></th>"
            f'<td class="t2i-right">{parts.percent(gap.rate)}</td>'
            f'<td class="t2i-right">{parts.percent(gap.other)}'
            f"<small>{escape(gap.against)}</small></td>"
            f"<td>{bars.interval(gap.gap, gap.ci, low, high, reference=0.0)}</td>"
            f'<td class="t2i-right"><b>{_points(gap.gap)}</b><small>{_points(gap.ci[0])} to '
            f"{_points(gap.ci[1])}</small></td></tr>"
            for gap in mine
        )
    st.html(
        '<div class="t2i-scroll"><table class="t2i-table t2i-gaps"><thead><tr><th scope="col">'
        'Harmless images</th><th scope="col" class="t2i-right">Blocked</th>'
        '<th scope="col" class="t2i-right">Compared with</th><th scope="col">'
        f"Gap, from {_points(low)} to {_points(high)}</th>"
        '<th scope="col" class="t2i-right">Gap, points</th></tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
    st.caption(
        "Paired: difference of the rates, Tango's score interval, scenes as clusters. Perceived: "
        "Mantel-Haenszel within prompts. 95%, not corrected for the number of gaps: the findings "
        "on the overview are."
    )


def _every_threshold(
    found: tuple[Curves, Fixed] | None,
    findings: Sequence[Finding],
    name: str,
    at: float,
    now: Confusion,
) -> None:
    st.header("At every threshold")
    if found is None:
        st.html(
            '<p class="t2i-dim">Curves need restricted and harmless images; to this filter all '
            "images of this run are of one kind.</p>"
        )
        return
    curves, fixed = found
    own = {f.metric: f for f in findings if f.slice == {"filter": name}}
    area = own.get("auc")
    ci = area.ci if area else None
    average = (area.detail or {}).get("average_precision_ci") if area else None
    called = now.blocked_restricted + now.blocked_harmless
    point = filter_charts.now(
        at,
        now.blocked_harmless / curves.harmless,
        now.blocked_restricted / curves.restricted,
        now.blocked_restricted / called if called else None,
    )
    with st.grid(min_column_width=380, gap="large") as grid:
        with grid.container():
            st.subheader("ROC")
            st.html(_figure("Area", curves.auc, ci))
            diagonal = filter_charts.diagonal("fpr", "tpr")
            charts.draw(
                filter_charts.roc(),
                {"points": fixed.roc, "now": point, "diagonal": diagonal},
                height=300,
                alt=f"ROC curve of {name}, area {curves.auc:.3f}",
            )
        with grid.container():
            st.subheader("Precision and recall")
            st.html(_figure("Average precision", curves.average_precision, average))
            points = fixed.precision_recall
            charts.draw(
                filter_charts.precision_recall(),
                {"points": points, "base": fixed.base, "now": point if called else point[:0]},
                height=300,
                alt=f"Precision over recall of {name}, average {curves.average_precision:.3f}",
            )
        if "brier_score" in own and not curves.reliability.empty:
            with grid.container():
                st.subheader("Reliability")
                st.html(
                    f"<p>Brier score <b>{parts.number(curves.brier)}</b>, calibration error "
                    f"<b>{parts.number(curves.calibration_error)}</b></p>"
                )
                diagonal = filter_charts.diagonal("mean", "rate")
                charts.draw(
                    filter_charts.reliability(),
                    {"bins": fixed.reliability, "diagonal": diagonal},
                    height=300,
                    alt=f"Share of restricted images by the probability that {name} gives",
                )
    bands = "Bands: exact 95% limits at each threshold, images as independent. "
    st.caption(bands + "The diamond is the threshold above; dashed is a score that knows nothing.")
    with st.expander("The same as a table"):
        st.dataframe(fixed.points, hide_index=True, alt="Points of the curves")
        if "brier_score" in own:
            st.dataframe(fixed.reliability, hide_index=True, alt="Bins of the reliability curve")


def _figure(label: str, value: float, ci: Sequence[float] | None) -> str:
    interval = f" [{parts.number(float(ci[0]))}, {parts.number(float(ci[1]))}]" if ci else ""
    return f"<p>{label} <b>{parts.number(value)}</b>{interval}</p>"


def _images(
    database: duckdb.DuckDBPyConnection,
    views: Catalog,
    index: int,
    held: Held,
    at: float,
    found: Confusion,
) -> None:
    st.header("Nearest to the threshold")
    sizes = (found.missed, found.blocked_restricted, found.blocked_harmless, found.passed_harmless)
    address.one_of("cell", list(CELLS), "cell of the matrix")
    with st.container(horizontal=True, vertical_alignment="bottom"):
        cell = st.segmented_control(
            "Images",
            list(CELLS),
            default="blocked, harmless",
            required=True,
            key="cell",
            bind="query-params",
        )
        reveal = st.toggle("Show flagged images", key="reveal", bind="query-params")
    rows = filter_scores.images(database, views, held, at, str(cell), SHOWN)
    size = dict(zip(CELLS, sizes, strict=True))[str(cell)]
    if size > len(rows):
        st.caption(f"{len(rows)} of {size:,} images.")
    if not rows:
        st.html('<p class="t2i-dim">No image is in this cell.</p>')
        return
    tiles = ""
    for row in rows:
        prompt = row["prompt"] or ""
        link = parts.link("gallery", probe=column_safe(PROBE), request=row["request"])
        tiles += (
            f'<a class="t2i-tile" role="listitem" href="{link}" target="_self" '
            f'title="{escape(prompt)}">{parts.picture(index, row["image"], prompt, reveal=reveal)}'
            f'<span class="t2i-score"><b>{parts.number(row["score"])}</b></span>'
            f'<span class="t2i-prompt">{escape(prompt)}</span></a>'
        )
    st.html(f'<div class="t2i-grid" role="list">{tiles}</div>')


def _points(gap: float) -> str:
    return f"{100 * gap:+.1f}".replace("-", "−")
