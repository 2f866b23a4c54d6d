"""Which watermarks are found, where, after what, and how often where there is none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import duckdb
import pandas as pd
import streamlit as st

from audit.findings import Finding
from audit.statistics import clopper_pearson
from dashboard import address, bars, findings_table, mark_charts, marks, parts, reading
from dashboard.marks import CLEAN, MATCHES, P_VALUES, PROVENANCE, Found
from dashboard.queries import Catalog, catalog

PROBE = "watermarks"
AGAINST = {"strength": "strength", "PSNR": "psnr", "SSIM": "ssim"}
"""Of the address and of the control → column."""
STATES = {
    "Trusted": "the manifest holds and leads to an anchor that was given",
    "Valid": "the manifest holds; anybody can sign one",
    "Invalid": "the manifest does not hold",
    "ManifestNotFound": "the file has no manifest",
    "RemoteManifest": "the file only names an address, which is not fetched",
    "Unreadable": "the file cannot be parsed",
    "changed": "the file is not the one that the run read",
    "no file": "no file was delivered, or C2PA could not be read",
}


def page() -> None:
    """The page."""
    _, run = parts.current()
    st.title("Watermarks")
    with run.connect() as database:
        views = catalog(database)
        findings = [f for f in reading.findings(run) if f.probe == PROBE]
        if MATCHES in views:
            p = _chosen()
            found = marks.found(database, views, p)
            _detection(found, findings, p)
            _attacks(marks.attacks(database, views, p), p)
            _matched(marks.matched(database, p), p)
            _realised(marks.realised(database))
        elif findings:
            parts.warn("No mark was read from the images of this run; why is said below.")
        else:
            parts.warn("This run was not asked for watermarks: 'watermarks' was not analysed.")
            return
        if PROVENANCE in views:
            _provenance(database, views)
        _others(findings, {one.codec for one in found} if MATCHES in views else set())


def _chosen() -> float:
    options = {f"{p:g}": p for p in P_VALUES}
    address.one_of("p", list(options), "p-value")
    chosen = st.select_slider(
        "A mark is found at a nominal p-value of at most",
        list(options),
        "1e-06",
        key="p",
        bind="query-params",
        help="Corrected for number formats and polarities: the share of unmarked images that "
        "would carry the mark by chance, if their bits were fair coins.",
    )
    return options[str(chosen)]


def _detection(found: Sequence[Found], findings: Sequence[Finding], p: float) -> None:
    st.header("Found and falsely found")
    by_key = {(one.codec, one.delivery): one for one in found}
    cost = {
        (f.metric, str(f.slice.get("codec"))): f
        for f in findings
        if f.metric in ("watermark_psnr", "watermark_ssim") and f.estimate is not None
    }
    codecs = list(dict.fromkeys(one.codec for one in found))
    body = ""
    for codec in codecs:
        body += f'<tr><th scope="row">{escape(codec)}</th>'
        body += _rate(by_key.get((codec, codec)), codec)
        body += _rate(by_key.get((codec, CLEAN)), CLEAN)
        body += f"<td>{_cost(cost, codec)}</td></tr>"
    st.html(
        '<div class="t2i-scroll"><table class="t2i-table t2i-marks"><thead><tr>'
        '<th scope="col">Mark</th><th scope="col">Found where it was set</th>'
        '<th scope="col">Found on unmarked images</th><th scope="col">Its cost</th></tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
    smallest = max((one.exact[1] for one in found if one.delivery == CLEAN), default=1.0)
    images = max((one.rate.n for one in found if one.delivery == CLEAN), default=0)
    few = (
        f" {images:,} unmarked images bound a rate at {parts.number(smallest)} at best, so that "
        f"{p:g} rests on the binomial law."
        if images and smallest > p
        else ""
    )
    st.caption("Wilson, prompts as clusters; exact: Clopper-Pearson. Both 95%." + few)
    _crossed(by_key, codecs)


def _rate(one: Found | None, delivery: str) -> str:
    if one is None:
        return '<td class="t2i-dim">not delivered so</td>'
    link = parts.link("gallery", probe=PROBE, tag_delivery=delivery)
    return (
        f"<td>{bars.interval(one.rate.estimate, one.rate.ci, 0, 1)}"
        f'<b>{parts.percent(one.rate.estimate)}</b> · <a href="{link}" target="_self">'
        f"{one.rate.events:,} of {one.rate.n:,} images</a>"
        f"<small>Wilson {parts.percents(one.rate.ci)}</small>"
        f"<small>exact {parts.percents(one.exact)}</small></td>"
    )


def _cost(cost: dict[tuple[str, str], Finding], codec: str) -> str:
    said = ""
    for metric, name, unit in (("watermark_psnr", "PSNR", " dB"), ("watermark_ssim", "SSIM", "")):
        if f := cost.get((metric, codec)):
            said += f"{name} <b>{parts.number(f.estimate)}</b>{unit}<small>{_bounds(f.ci)}</small>"
    return said or '<span class="t2i-dim">not measured</span>'


def _crossed(by_key: dict[tuple[str, str], Found], codecs: Sequence[str]) -> None:
    """Each mark looked for on the images with each other."""
    deliveries = list(dict.fromkeys(delivery for _, delivery in by_key))
    if len(deliveries) < 3:
        return
    deliveries.sort(key=lambda name: (name != CLEAN, name))
    head = "".join(f'<th scope="col" class="t2i-right">{escape(c)}</th>' for c in codecs)
    body = ""
    for delivery in deliveries:
        body += f'<tr><th scope="row">{escape(delivery)}</th>'
        for codec in codecs:
            one = by_key.get((codec, delivery))
            share = one.rate.estimate if one else None
            shade = f' style="--share:{100 * (share or 0):.0f}%"'
            body += f'<td class="t2i-right t2i-shade"{shade}>{parts.percent(share)}</td>'
        body += "</tr>"
    with st.expander("Which mark is found on which images"):
        st.html(
            '<div class="t2i-scroll"><table class="t2i-table t2i-narrow t2i-crossed"><thead><tr>'
            f'<th scope="col">Delivered with, found as</th>{head}</tr></thead><tbody>{body}</tbody>'
            "</table></div>"
        )


def _attacks(frame: pd.DataFrame, p: float) -> None:
    attacked = frame[frame.attack != "none"]
    if attacked.empty:
        return
    st.header("After attacks")
    there = [name for name, column in AGAINST.items() if attacked[column].notna().any()]
    address.one_of("against", there, "axis")
    against = st.segmented_control(
        "Against",
        there,
        default="strength",
        required=True,
        key="against",
        bind="query-params",
    )
    if against == "strength":
        with st.grid(min_column_width=300, gap="medium") as grid:
            for name, part in attacked.groupby("attack", sort=False):
                whole = pd.concat([frame[frame.attack == "none"], part])
                with grid.container():
                    st.altair_chart(
                        mark_charts.strengths(whole, str(name)),
                        height=250,
                        alt=f"Marks found after {name}, by strength: {_told(part)}",
                    )
        st.caption("Leftmost, without an attack; then the weakest strength first.")
    else:
        column = AGAINST[str(against)]
        known = attacked[attacked[column].notna()]
        st.altair_chart(
            mark_charts.costs(known, column, str(against)),
            height=340,
            alt=f"Marks found over the {against} of the attacked images",
        )
        st.caption(
            f"{against} of the attacked to the marked image, of a few images: the farther "
            "left a mark is lost, the more an attacker must spoil."
        )
    with st.expander("The same as a table"):
        st.dataframe(frame, hide_index=True, alt=f"Marks found at a p-value of at most {p:g}")


def _told(part: pd.DataFrame) -> str:
    return ", ".join(
        f"{row.codec} {row.strength:g}: {row.tpr:.0%}" for row in part.head(8).itertuples()
    )


def _matched(rows: Sequence[dict[str, Any]], p: float) -> None:
    st.header("What matched")
    if not rows:
        st.html(f'<p class="t2i-dim">No mark is found at a p-value of at most {p:g}.</p>')
        return
    body = "".join(
        f'<tr><th scope="row">{escape(str(row["codec"]))}</th><td>{escape(str(row["delivery"]))}'
        f"</td><td>{escape(str(row['domain']))}</td>"
        f"<td>{'inverted' if row['inverted'] else 'upright'}</td>"
        f'<td class="t2i-right"><b>{row["n"]:,}</b></td>'
        f'<td class="t2i-right">{row["read"]:,}</td></tr>'
        for row in rows
    )
    st.html(
        '<div class="t2i-scroll"><table class="t2i-table t2i-narrow"><thead><tr>'
        '<th scope="col">Mark (key)</th><th scope="col">Delivered with</th>'
        '<th scope="col">Number format</th><th scope="col">Polarity</th>'
        '<th scope="col" class="t2i-right">Found</th><th scope="col" class="t2i-right">Read</th>'
        f"</tr></thead><tbody>{body}</tbody></table></div>"
    )
    st.caption(
        "Encoders and decoders disagree on number formats and signs; of each image the surest test "
        "counts."
    )


def _realised(frame: pd.DataFrame) -> None:
    if frame.empty:
        return
    st.header("Nominal against realised false positives")
    told = ", ".join(
        f"{row.codec} {row.realised:.2%}" for row in frame[frame.nominal == 0.01].itertuples()
    )
    st.altair_chart(
        mark_charts.realised(frame),
        height=340,
        alt=f"Share of unmarked images below each nominal p-value; at 1%: {told}",
    )
    st.caption(
        "Share of unmarked images with a p-value of at most the nominal one; exact 95% limits. "
        "On the dashed line the binomial law holds; above it, marks are seen where there are none."
    )
    with st.expander("The same as a table"):
        st.dataframe(frame, hide_index=True, alt="Nominal and realised rates")


def _provenance(database: duckdb.DuckDBPyConnection, views: Catalog) -> None:
    needed = {"credentials", "mark", "generated", "black", "readable", "outcome"}
    rows = marks.provenance(database) if needed <= set(views[PROVENANCE]) else []
    if not rows:
        return
    st.header("Content Credentials (C2PA)")
    total = sum(row["n"] for row in rows)
    body = "".join(
        f'<tr><th scope="row">{escape(str(row["credentials"]))}<small>'
        f"{escape(STATES.get(row['credentials'], ''))}</small></th><td>{escape(str(row['mark']))}"
        f'</td><td class="t2i-right"><b>{row["n"]:,}</b></td><td class="t2i-right">'
        f"{parts.percents(clopper_pearson(row['n'], total))}</td>"
        + "".join(
            f'<td class="t2i-right">{row[name]:,}</td>' for name in ("generated", "black", "unread")
        )
        + "</tr>"
        for row in rows
    )
    heads = ("Images", "Share, exact 95%", "Says generated", "Black", "Too small to read")
    st.html(
        '<div class="t2i-scroll"><table class="t2i-table"><thead><tr><th scope="col">State</th>'
        '<th scope="col">Mark of its own</th>'
        + "".join(f'<th scope="col" class="t2i-right">{head}</th>' for head in heads)
        + f"</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _others(findings: Iterable[Finding], shown: set[str]) -> None:
    """Marks of the noise, which are read by inversion, and what was not tested."""
    rest = [f for f in findings if f.slice.get("codec") not in shown]
    if rest:
        st.header("Further findings")
        st.html(findings_table.table(rest))


def _bounds(ci: Sequence[float] | None) -> str:
    return f"{parts.number(float(ci[0]))} to {parts.number(float(ci[1]))}" if ci else ""
