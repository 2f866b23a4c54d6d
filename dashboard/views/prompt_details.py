"""One prompt of the probe of demographics: its figures, its outcomes, its images, their mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import streamlit as st

from audit.card import wording
from audit.findings import Finding
from audit.store import Run
from dashboard import means as mean_images
from dashboard import parts
from dashboard.table import Table

PROBE = "demographics"
IMAGES = 12
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
"""Okabe and Ito's; a label has the one of its place."""
NOTHING = "#8a8f98"


def show(index: int, run: Run, table: Table | None, finding: Finding) -> None:
    """The prompt behind one share."""
    say = wording.metric(finding.metric).show
    left, right = st.columns([2, 3], gap="large")
    with left:
        st.html(_figures(finding, say))
        st.html(parts.facts(_facts(finding, say)))
        if outcomes := finding.detail.get("outcomes"):
            st.html(bar(outcomes))
        st.html(_ways(finding))
    with right:
        if table is None:
            parts.warn("The run's images are not here.")
            return
        rows = table.page(
            ["request", "image", "prompt", "outcome", "error", "seed"],
            table.evidence(finding.evidence),
            limit=IMAGES,
        )
        tiles = "".join(_tile(index, row) for row in rows)
        st.html(f'<div class="t2i-grid t2i-tight" role="list">{tiles}</div>')


def _figures(f: Finding, say: Callable[[float], str]) -> str:
    estimate = "–" if f.estimate is None else say(f.estimate)
    ci = f"{say(f.ci[0])} to {say(f.ci[1])}" if f.ci else "no interval"
    return (
        f'<div class="t2i-banner"><div><span class="t2i-big">{estimate}</span> '
        f"{parts.verdict(f.verdict)}</div><div>{f.level:.0%} interval {ci}; "
        f"{f.n:,} images</div></div>"
    )


def _facts(f: Finding, say: Callable[[float], str]) -> list[tuple[str, Any]]:
    def ends(value: Any) -> str | None:
        real = isinstance(value, list) and all(isinstance(v, int | float) for v in value)
        return f"{say(value[0])} to {say(value[1])}" if real and len(value) == 2 else None

    rows: list[tuple[str, Any]] = [
        ("Raw", None if f.raw is None else say(f.raw)),
        ("Corrected for", f.corrected_for or "nothing"),
        ("Reference", None if f.reference is None else say(f.reference)),
        ("Where from", f.reference_name),
        ("Margin", None if f.threshold is None else say(f.threshold)),
        ("Had all without a label gone one way", ends(f.detail.get("bounds"))),
        ("p, adjusted", parts.number(f.detail.get("p_adjusted"))),
    ]
    for name, about in f.detail.items():
        if isinstance(about, Mapping) and isinstance(about.get("estimate"), int | float):
            rows.append((f"By {wording.plain(name)}", say(float(about["estimate"]))))
    return rows


def bar(outcomes: Mapping[str, Any]) -> str:
    """The images of a prompt by what was perceived, or why nothing was."""
    counts = {str(k): v for k, v in outcomes.items() if isinstance(v, int) and v > 0}
    several = counts.pop("several_faces", 0)
    total = sum(counts.values())
    if not total:
        return ""
    from audit.perception import WITHOUT

    labels = [name for name in counts if name not in WITHOUT]
    pieces, words = [], []
    for name, count in counts.items():
        place = labels.index(name) if name in labels else -1
        colour = NOTHING if place < 0 else COLOURS[place % len(COLOURS)]
        said = f"{parts.words(name)} {count:,}"
        pieces.append(f'<i style="flex:{count};background:{colour}" title="{said}"></i>')
        words.append(f'<span><i style="background:{colour}"></i>{said}</span>')
    more = f"<span>of these with several faces {several:,}</span>" if several else ""
    told = escape(", ".join(f"{wording.plain(name)} {count}" for name, count in counts.items()))
    return (
        f'<div class="t2i-bar" role="img" aria-label="Images by what was perceived: {told}">'
        f'{"".join(pieces)}</div><div class="t2i-legend">{"".join(words)}{more}</div>'
    )


def _ways(f: Finding) -> str:
    subject = str(f.slice.get("subject", ""))
    ways = [
        ("All images", parts.link("gallery", finding=f.id)),
        (
            "Against the others on the same seeds",
            parts.link("side_by_side", vary="Occupations and traits"),
        ),
        ("With identities named", parts.link("side_by_side", vary="Identity inserted", of=subject)),
    ]
    links = "".join(f'<a href="{address}" target="_self">{name}</a>' for name, address in ways)
    return f'<nav class="t2i-onward" aria-label="images of this prompt">{links}</nav>'


def _tile(index: int, row: Mapping[str, Any]) -> str:
    prompt = str(row.get("prompt") or "")
    instead = str(row["outcome"]) + (f": {row['error']}" if row.get("error") else "")
    image = parts.picture(
        index, row.get("image"), f"{prompt}, seed {row.get('seed')}", instead=instead
    )
    mark = '<span class="t2i-mark">⚑ flagged, blurred</span>' if row["flagged"] else ""
    address = parts.link("gallery", probe=PROBE, request=row["request"])
    return (
        f'<a class="t2i-tile" role="listitem" href="{address}" target="_self" '
        f'title="{escape(prompt)}">{image}{mark}</a>'
    )


def means(
    index: int, table: Table, findings: Sequence[Finding], label: Callable[[Finding], str]
) -> None:
    """The mean picture and the mean colour of each prompt."""
    st.caption(
        f"The mean of at most {mean_images.MOST} images of a prompt, laid over each other; of "
        "their faces, where a face detector found them. Sharp: the model draws nearly the same "
        "each time. Flagged images are left out."
    )
    tiles = "".join(_mean(index, table, finding, label(finding)) for finding in findings)
    st.html(f'<div class="t2i-grid" role="list">{tiles}</div>')


def _mean(index: int, table: Table, f: Finding, label: str) -> str:
    tags = {
        name: str(value)
        for name, value in f.evidence.items()
        if name in table.tags and isinstance(value, str)
    }
    say = wording.metric(f.metric).show
    said = "–" if f.estimate is None else say(f.estimate)
    picture = escape(mean_images.address(index, PROBE, tags))
    return (
        f'<a class="t2i-tile" role="listitem" href="{parts.link("gallery", finding=f.id)}" '
        f'target="_self"><img class="t2i-mean" src="{picture}" alt="mean of the images of '
        f'{escape(label)}" loading="lazy" decoding="async"><span class="t2i-prompt">'
        f"{escape(label)} <b>{said}</b></span></a>"
    )
