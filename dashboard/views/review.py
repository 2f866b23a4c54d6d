"""People's labels: given blind, compared, and brought into the findings."""

from __future__ import annotations

import streamlit as st

from audit.errors import AuditError
from audit.labels import Labels, check_author
from audit.recompute import PROBE
from audit.reopened import attributes_of
from audit.store import column_safe
from dashboard import address, parts
from dashboard.queries import catalog
from dashboard.views import review_findings, review_label, review_people

PARTS = ("Label", "Agreement", "Disagreements", "Findings")


def page() -> None:
    """The page."""
    index, run = parts.current()
    st.title("Review")
    with run.connect() as database:
        there = f"uses_{column_safe(PROBE)}" in catalog(database)
    if not there:
        parts.warn(f"This run has no images of people to label: '{PROBE}' was not part of it.")
        return
    attributes = attributes_of(run, PROBE)
    if not attributes:
        parts.warn("The suite of this run reads no attribute from its images.")
        return
    labels = Labels(run, attributes)
    address.one_of("part", PARTS, "part")
    part = st.segmented_control(
        "Part",
        PARTS,
        default=PARTS[0],
        required=True,
        key="part",
        bind="query-params",
        label_visibility="collapsed",
    )
    if part == "Findings":
        review_findings.show(run, labels)
    elif part == "Agreement":
        review_people.agreement(labels)
    elif part == "Disagreements":
        with st.container(width=260):
            attribute = _attribute(list(attributes))
        review_people.disagreements(index, labels, attribute)
    else:
        _label(index, labels)


def _label(index: int, labels: Labels) -> None:
    with st.container(border=True), st.grid(min_column_width=170):
        rater = _rater()
        attribute = _attribute(list(labels.attributes))
        address.one_of("overlap", list(review_label.OVERLAPS), "share for everybody")
        overlap = st.selectbox(
            "Given to everybody",
            list(review_label.OVERLAPS),
            index=1,
            key="overlap",
            bind="query-params",
            help="The share of the images that every rater is given, in the same order, so that "
            "agreement can be computed. Agree on one share for all raters of a run.",
        )
    if not rater.strip():
        st.html(
            '<p class="t2i-lead">Say your name to begin. You see one image at a time, in an order '
            "of your own, without its prompt, scores or model. Each label is kept at once with "
            "your name and the time; nothing is ever overwritten, and an undo is kept too.</p>"
        )
        return
    try:
        check_author(rater.strip())
    except AuditError as error:
        parts.warn(str(error))
        return
    review_label.show(index, labels, rater.strip(), attribute, review_label.OVERLAPS[overlap])


def _rater() -> str:
    """Who labels: whoever logged in, else the name that they give themselves."""
    if st.user.get("is_logged_in"):
        name = str(st.user.get("email") or "")
        st.text_input("Your name", name, key="logged_in", disabled=True, icon=":material/badge:")
        return name
    return str(
        st.text_input(
            "Your name",
            key="rater",
            bind="query-params",
            max_chars=64,
            placeholder="kept with your labels",
            icon=":material/badge:",
        )
    )


def _attribute(names: list[str]) -> str:
    address.one_of("attribute", names, "attribute")
    return str(
        st.selectbox(
            "Attribute",
            names,
            key="attribute",
            bind="query-params",
        )
        if len(names) > 1
        else names[0]
    )
