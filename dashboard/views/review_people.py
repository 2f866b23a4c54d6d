"""How far raters agree, and where they do not."""

from __future__ import annotations

import math
from html import escape
from typing import Any

import pandas as pd
import streamlit as st

from audit.labels import NOT_A_LABEL, Label, Labels
from audit.recompute import csv_of
from dashboard import images, parts

PER_PAGE = 24


def agreement(labels: Labels) -> None:
    """Krippendorff's α of each attribute, the raters, and the way out as CSV."""
    given = labels.current()
    if not given:
        parts.warn("Nobody has labelled an image of this run yet.")
        return
    st.header("Agreement")
    rows = [_alpha_row(labels, name, given) for name in labels.attributes]
    st.html(
        '<div class="t2i-scroll"><table class="t2i-table t2i-alphas"><thead><tr>'
        '<th scope="col">Attribute</th><th scope="col" class="t2i-right">Raters</th>'
        '<th scope="col" class="t2i-right">Labelled twice</th>'
        '<th scope="col" class="t2i-right">Krippendorff\'s α</th>'
        '<th scope="col">95% interval, 0 to 1; marks at .667 and .8</th>'
        '<th scope="col">What follows</th></tr></thead><tbody>'
        + "".join(rows)
        + "</tbody></table></div>"
    )
    st.caption(
        "Nominal α; interval by bootstrap over images. Who said undetermined or no face has not "
        "told two labels apart and does not count here. Below .667 no conclusion is drawn from "
        "labels, from .8 on they are reliable (Krippendorff 2018, ch. 12)."
    )
    st.header("Raters")
    for name in labels.attributes:
        mine = [label for label in given if label.attribute == name]
        if mine:
            st.subheader(parts.plain(name.replace("_", " ").capitalize()))
            st.html(_raters(mine, [*labels.attributes[name], *NOT_A_LABEL]))
    blind = sum(label.blind for label in given)
    st.html(
        f'<p class="t2i-dim">{blind:,} of {len(given):,} labels were given without seeing prompt, '
        "scores or model.</p>"
    )
    st.download_button(
        "labels.csv",
        lambda: csv_of(labels.current(), list(labels.attributes)).encode(),
        "labels.csv",
        "text/csv",
        icon=":material/download:",
        on_click="ignore",
        help="A row a rater and image, as the settings of the probe and t2i-audit detector-error "
        "read them. Every row ever written is in labels.sqlite.",
    )


@st.cache_data(max_entries=64, show_spinner="Computing the agreement …")
def alpha(folder: str, attribute: str, state: Any) -> Any:
    """:class:`audit.label_files.Agreement` of the labels that count."""
    del folder, state  # parts of the key
    from audit.label_files import agreement_of

    _, run = parts.current()
    rows = [(x.author, x.image, x.label) for x in Labels(run, {}).current(attribute)]
    return agreement_of(
        pd.DataFrame(rows, columns=["author", "image", attribute]), "image", attribute
    )


def _alpha_row(labels: Labels, name: str, given: list[Label]) -> str:
    mine = [label for label in given if label.attribute == name]
    seen = pd.Series([label.image for label in mine], dtype=object).value_counts()
    twice, raters = int((seen > 1).sum()), len({label.author for label in mine})
    head = (
        f'<tr><th scope="row">{parts.words(name)}</th><td class="t2i-right">{raters}</td>'
        f'<td class="t2i-right">{twice:,}</td>'
    )
    if raters < 2 or not twice:
        reason = "one rater cannot be checked" if raters == 1 else "no image was labelled twice"
        return f'{head}<td class="t2i-right">–</td><td></td><td>{reason if mine else ""}</td></tr>'
    found = alpha(str(labels.run.path), name, labels.state())
    if found.alpha is None or math.isnan(found.alpha):
        reason = "every label is the same" if found.alpha is not None else "nothing was told apart"
        return f'{head}<td class="t2i-right">–</td><td></td><td>{reason}: no α</td></tr>'
    low, high = found.ci
    return (
        f'{head}<td class="t2i-right"><b>{found.alpha:.3f}</b><small>[{low:.3f}, {high:.3f}]'
        f"</small></td><td>{_alpha_plot(found.alpha, low, high)}</td>"
        f"<td>{follows(found.alpha)}</td></tr>"
    )


def follows(value: float) -> str:
    """What may be concluded from labels with this α."""
    if value < 0.667:
        return parts.verdict("exceeds", "no conclusion")
    return (
        parts.verdict("inconclusive", "tentative")
        if value < 0.8
        else (parts.verdict("within", "reliable"))
    )


def _alpha_plot(value: float, low: float, high: float) -> str:
    def at(number: float) -> float:
        return 100 * min(1.0, max(0.0, number))

    kind = "exceeds" if value < 0.667 else "inconclusive" if value < 0.8 else "within"
    marks = "".join(f'<i class="t2i-ref" style="left:{at(x):.1f}%"></i>' for x in (0.667, 0.8))
    told = f"α {value:.3f}, interval {low:.3f} to {high:.3f}"
    return (
        f'<div class="t2i-plot t2i-{kind}" role="img" aria-label="{told}" title="{told}">{marks}'
        f'<i class="t2i-ci" style="left:{at(low):.1f}%;width:{at(high) - at(low):.1f}%"></i>'
        f'<i class="t2i-point" style="left:{at(value):.1f}%"></i></div>'
    )


def _raters(given: list[Label], names: list[str]) -> str:
    head = "".join(f'<th scope="col" class="t2i-right">{parts.words(n)}</th>' for n in names)
    body = ""
    for author in sorted({label.author for label in given}):
        mine = [label for label in given if label.author == author]
        counts = "".join(
            f'<td class="t2i-right">{sum(label.label == name for label in mine):,}</td>'
            for name in names
        )
        body += (
            f'<tr><th scope="row">{escape(author)}</th><td class="t2i-right">{len(mine):,}</td>'
            f"{counts}<td>{_when(max(label.time for label in mine))}</td></tr>"
        )
    return (
        '<div class="t2i-scroll"><table class="t2i-table t2i-narrow"><thead><tr><th scope="col">'
        f'Rater</th><th scope="col" class="t2i-right">Images</th>{head}<th scope="col">Last</th>'
        f"</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _when(time: str) -> str:
    return f"{escape(time[:16].replace('T', ' '))} UTC"


def disagreements(index: int, labels: Labels, attribute: str) -> None:
    """The images that raters labelled differently, with who said what and when."""
    given = labels.current(attribute)
    by_image: dict[str, list[Label]] = {}
    for label in given:
        by_image.setdefault(label.image, []).append(label)
    twice = {image: found for image, found in by_image.items() if len(found) > 1}
    split = {i: found for i, found in twice.items() if len({x.label for x in found}) > 1}
    st.html(
        f'<p class="t2i-total"><b>{len(split):,}</b> of {len(twice):,} images with several labels '
        "are labelled differently</p>"
    )
    if not split:
        parts.warn(
            "No image has two labels yet."
            if not twice
            else "The raters agree on every image that several of them labelled."
        )
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption("Look here when you have labelled: what others said sways what one sees.")
        reveal = st.toggle("Show flagged images", key="reveal", bind="query-params")
    shown = sorted(split)[parts.paged(len(split), PER_PAGE)]
    _, run = parts.current()
    known = images.known_images(run)
    st.html(
        '<div class="t2i-splits">'
        + "".join(
            _split(index, image, split[image], bool(known.get(image)), reveal) for image in shown
        )
        + "</div>"
    )


def _split(index: int, image: str, found: list[Label], flagged: bool, reveal: bool) -> str:
    mark = (
        f'<span class="t2i-mark">⚑ flagged{"" if reveal else ", blurred"}</span>' if flagged else ""
    )
    picture = parts.picture(index, image, "labelled differently", reveal=flagged and reveal)
    rows = "".join(
        f"<li><span>{escape(label.author)}</span> <b>{parts.words(label.label)}</b>"
        f"<small>{_when(label.time)}{'' if label.blind else ' · not blind'}</small>"
        + (f"<small>“{escape(label.reason)}”</small>" if label.reason else "")
        + "</li>"
        for label in sorted(found, key=lambda label: label.author)
    )
    address = parts.link("gallery", probe="demographics", request=found[0].request)
    return (
        f'<article class="t2i-split"><a href="{address}" target="_self" aria-label="the image with '
        f'all that is known of it">{picture}{mark}</a><ul>{rows}</ul></article>'
    )
