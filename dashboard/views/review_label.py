"""One image at a time and a key for each label."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from html import escape

import streamlit as st

from audit.errors import AuditError
from audit.labels import MAX_REASON, NOT_A_LABEL, Label, Labels
from audit.recompute import PROBE
from dashboard import images, parts, review_queue
from dashboard.review_queue import Shot
from dashboard.table import Table

OVERLAPS = {"0 %": 0.0, "20 %": 0.2, "50 %": 0.5, "100 %": 1.0}
KEYS = "1234567890ABDEFGHIJKLMNOPQSTWXYZ"
"""Keys of labels, in order; C and R are Streamlit's, U and V ours."""
_PROBLEM = "review_problem"


def show(index: int, labels: Labels, rater: str, attribute: str, overlap: float) -> None:
    """The queue of `rater`."""
    _, run = parts.current()
    total = review_queue.size(run)
    if not total:
        parts.warn("No image of this run was made: there is nothing to label.")
        return
    everyone = labels.current(attribute)
    mine = {label.image: label for label in everyone if label.author == rater}
    most = review_queue.length(total, len(mine))
    shots = _queue(str(run.path), total, rater, overlap, most)
    at = _at(shots, mine)
    shot = shots[at]
    if problem := st.session_state.pop(_PROBLEM, None):
        parts.warn(problem)
    picture, panel = st.columns([3, 2], gap="large")
    with panel:
        _panel(labels, rater, attribute, shots, at, mine)
    with picture:
        _picture(index, shot)
        _ahead(index, shots, at)
    st.html(_progress(shots, mine, everyone, total))


@st.cache_resource(max_entries=32, show_spinner="Drawing the order of the images …")
def _queue(folder: str, total: int, rater: str, overlap: float, most: int) -> tuple[Shot, ...]:
    del folder, total  # part of the key: the order is drawn again when the run has grown
    return tuple(review_queue.queue(parts.current()[1], rater, overlap, most))


def _at(shots: Sequence[Shot], mine: dict[str, Label]) -> int:
    """The place in the queue: the address's, else the first without a label."""
    given = st.query_params.get("at")
    if given is not None:
        if given.isdecimal() and 1 <= int(given) <= len(shots):
            return int(given) - 1
        parts.warn(f"The address asks for the image {given[:20]!r}; there are {len(shots):,}.")
    return next((i for i, shot in enumerate(shots) if shot.image not in mine), len(shots) - 1)


def _picture(index: int, shot: Shot) -> None:
    _, run = parts.current()
    flagged = bool(images.known_images(run).get(shot.image))
    shown = st.query_params.get("shown") == shot.image[:16]
    st.html(
        '<div class="t2i-review">'
        + parts.picture(
            index, shot.image, "the image to label", thumbnail=False, reveal=flagged and shown
        )
        + "</div>"
    )
    if flagged and not shown:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.html("<p>⚑ Flagged by a safety filter, therefore blurred.</p>")
            st.button("Show it", key="show", shortcut="V", on_click=_reveal, args=(shot.image,))


def _reveal(digest: str) -> None:
    st.query_params["shown"] = digest[:16]


def _ahead(index: int, shots: Sequence[Shot], at: int) -> None:
    """The next image is fetched while this one is looked at."""
    if at + 1 < len(shots):
        image = parts.picture(index, shots[at + 1].image, "", thumbnail=False)
        st.html(
            f'<div hidden aria-hidden="true">{image.replace(chr(34) + "lazy", chr(34) + "eager")}'
            "</div>"
        )


def _panel(
    labels: Labels,
    rater: str,
    attribute: str,
    shots: Sequence[Shot],
    at: int,
    mine: dict[str, Label],
) -> None:
    shot = shots[at]
    now = mine.get(shot.image)
    name = attribute.replace("_", " ")
    st.html(
        f'<h2 class="t2i-ask">{escape(name.capitalize())}?</h2>'
        f'<p class="t2i-dim">Image {at + 1:,} of {len(shots):,}'
        f"{' · you said <b>' + escape(now.label.replace('_', ' ')) + '</b>' if now else ''}</p>"
    )
    reason = f"reason-{attribute}-{shot.image[:16]}"
    asked = st.query_params.get("unblind", "").lower() in ("1", "true")
    unblind = bool(st.session_state.get("unblind", asked))
    seen = st.session_state.setdefault("review_seen", set())
    if unblind:
        seen.add(shot.image)
    offered = [*labels.attributes[attribute], *NOT_A_LABEL]
    for key, label in zip(KEYS, offered, strict=False):
        st.button(
            parts.plain(label.replace("_", " ")),
            key=f"give-{attribute}-{shot.image[:16]}-{label}",
            shortcut=key,
            width="stretch",
            icon=":material/check:" if now and now.label == label else None,
            type="primary" if now and now.label == label else "secondary",
            on_click=partial(_give, labels, rater, attribute, shots, at, mine, label, reason),
        )
    st.text_input(
        "Reason (optional)",
        key=reason,
        max_chars=MAX_REASON,
        placeholder="kept with the label you then give",
    )
    with st.container(horizontal=True):
        st.button(
            "Previous",
            key="previous",
            shortcut="Left",
            disabled=at == 0,
            on_click=partial(_go, at - 1),
        )
        st.button(
            "Next",
            key="next",
            shortcut="Right",
            disabled=at + 1 >= len(shots),
            on_click=partial(_go, at + 1),
        )
        st.button(
            "Undo",
            key="undo",
            shortcut="U",
            help="Withdraws your last label of this attribute.",
            on_click=partial(_undo, labels, rater, attribute, shots),
        )
    st.toggle(
        "Show prompt and scores",
        key="unblind",
        bind="query-params",
        help="Labels given to an image after this are kept as not blind.",
    )
    if unblind:
        _told(shot, attribute)


def _give(
    labels: Labels,
    rater: str,
    attribute: str,
    shots: Sequence[Shot],
    at: int,
    mine: dict[str, Label],
    label: str,
    reason: str,
) -> None:
    shot = shots[at]
    blind = shot.image not in st.session_state.get("review_seen", set())
    why = str(st.session_state.get(reason, ""))
    try:
        labels.give(rater, shot.image, shot.request, attribute, label, why, blind=blind)
    except AuditError as error:
        st.session_state[_PROBLEM] = str(error)
        return
    done = {*mine, shot.image}
    later = (i for i in range(at + 1, len(shots)) if shots[i].image not in done)
    earlier = (i for i in range(at) if shots[i].image not in done)
    _go(next(later, next(earlier, None)))


def _undo(labels: Labels, rater: str, attribute: str, shots: Sequence[Shot]) -> None:
    try:
        last = labels.last(rater, attribute)
        if last is None:
            st.session_state[_PROBLEM] = "There is no label of yours to undo."
            return
        labels.withdraw(rater, last.id)
    except AuditError as error:
        st.session_state[_PROBLEM] = str(error)
        return
    place = next((i for i, shot in enumerate(shots) if shot.image == last.image), None)
    if place is not None:
        _go(place)


def _go(place: int | None) -> None:
    """To a place of the queue; without one, to the first image that has no label."""
    if place is None:
        st.query_params.pop("at", None)
    else:
        st.query_params["at"] = str(place + 1)
    st.query_params.pop("shown", None)


def _told(shot: Shot, attribute: str) -> None:
    """What the image was asked for and what instruments said: only when asked."""
    _, run = parts.current()
    with run.connect() as database:
        table = Table(database, PROBE)
        scores = [name for name in table.scores if f"_{attribute}_" in f"{name}_"]
        rows = table.page(
            ["prompt", "seed", *scores], [table.equals("request", shot.request)], limit=1
        )
    if rows:
        told = {name: value for name, value in rows[0].items() if name != "flagged"}
        st.html(parts.facts([("model", run.info.get("model")), *told.items()]))


def _progress(
    shots: Sequence[Shot], mine: dict[str, Label], everyone: list[Label], total: int
) -> str:
    queued = {shot.image for shot in shots}
    done = len(queued & mine.keys())
    raters: dict[str, int] = {}
    images: dict[str, int] = {}
    for label in everyone:
        raters[label.author] = raters.get(label.author, 0) + 1
        images[label.image] = images.get(label.image, 0) + 1
    twice = sum(count > 1 for count in images.values())
    all_ = (
        f"<b>{len(images):,}</b> of {total:,} images by {len(raters):,} "
        f"rater{'' if len(raters) == 1 else 's'}, <b>{twice:,}</b> by more than one"
    )
    more = "" if total <= len(shots) else f" so far; the queue grows up to {total:,}"
    return (
        '<div class="t2i-progresses">'
        + _bar("You", done, len(shots), f"<b>{done:,}</b> of {len(shots):,} labelled{more}")
        + _bar("All", len(images), total, all_)
        + "</div>"
    )


def _bar(name: str, done: int, total: int, told: str) -> str:
    share = 100 * done / max(1, total)
    return (
        f'<div class="t2i-progress"><span>{name}</span><div role="progressbar" '
        f'aria-label="{name}" aria-valuemin="0" aria-valuemax="{total}" aria-valuenow="{done}">'
        f'<i style="width:{share:.1f}%"></i></div><small>{told}</small></div>'
    )
