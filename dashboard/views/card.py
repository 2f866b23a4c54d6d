"""The model card as it was written, shown without its scripts, and for download."""

from __future__ import annotations

import streamlit as st

from dashboard import parts, runs
from dashboard.images import CARD_FILES


def page() -> None:
    """The page."""
    index, run = parts.current()
    st.title("Model card")
    found = {name: runs.inside(run, run.path / "card" / name) for name in CARD_FILES}
    files = {name: path for name, path in found.items() if path}
    if not files:
        parts.warn(f"This run has no card yet. Write it with: t2i-audit card {run.path.name}")
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
