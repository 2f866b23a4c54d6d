"""The model card as it was written, shown without its scripts, and for download."""

from __future__ import annotations

import streamlit as st

from audit.errors import AuditError
from audit.store import Run
from dashboard import jobs, parts, runs
from dashboard.images import CARD_FILES

NONE = "This run has no card yet."
OLDER = "The card is older than the findings: its figures are not those that the other pages show."
UNKNOWN = "Whether the card holds today's findings is not known: no card.json lists what it holds."


def page() -> None:
    """The page."""
    index, run = parts.current()
    st.title("Model card")
    found = {name: runs.inside(run, run.path / "card" / name) for name in CARD_FILES}
    files = {name: path for name, path in found.items() if path}
    renew(run)
    if not files:
        return
    with st.container(horizontal=True):
        for name, path in files.items():
            st.download_button(
                name,
                path.read_bytes,
                name,
                CARD_FILES[name],
                icon=":material/download:",
                on_click="ignore",
            )
    if "card.html" in files:
        st.iframe(f"/document/{index}/card.html", height=1000, alt="The model card")
    else:
        parts.warn("The card was not written as HTML; it can be downloaded.")


def renew(run: Run) -> None:
    """What is wrong with the card, and a button that writes it; nothing where it is of today."""
    wrong = outdated(run)
    if not wrong:
        return
    parts.warn(wrong)
    if (run.path / "card").is_symlink():
        parts.warn(f"{run.path / 'card'} is a link: the dashboard does not write there.")
        return
    job = jobs.of(run, jobs.CARD)
    running = job is not None and job.running
    if st.button(
        "Write the card",
        key="write_card",
        icon=":material/edit_document:",
        disabled=running,
        help="As t2i-audit card RUN does. Sections on the claims of another card or on an earlier "
        "run come with that command's --claims and --previous alone.",
    ):
        jobs.write_card(run)
        st.rerun()
    if running:
        jobs.watch(run, jobs.CARD)
    elif job is not None and job.error:
        parts.warn(f"not written: {job.error}")


def outdated(run: Run) -> str:
    """Why the card does not stand for the run's findings; empty where it does."""
    folder = run.path / "card"
    if not any(runs.inside(run, folder / name) for name in CARD_FILES):
        return NONE
    try:
        card = run.read_json("card/card.json")
    except AuditError:
        return UNKNOWN
    rows = card.get("findings") if isinstance(card, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        return UNKNOWN
    told = [{key: row[key] for key in row if key != "evidence_query"} for row in rows]
    return "" if told == run.read_json("findings.json", []) else OLDER
