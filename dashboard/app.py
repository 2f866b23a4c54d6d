"""The Streamlit script: navigation, the choice of the run, the page. See :mod:`.server`."""

from __future__ import annotations

from pathlib import Path

import duckdb
import streamlit as st

from audit.errors import AuditError
from dashboard import parts, runs
from dashboard.views import card, gallery, memorization, overview

HERE = Path(__file__).parent


def main() -> None:
    """One rerun of the app."""
    st.set_page_config("t2i-audit", HERE / "icon.svg", layout="wide", initial_sidebar_state=220)
    st.html(HERE / "style.css")
    start = st.Page(lambda: None, default=True, title="Start", visibility="hidden")
    pages = {
        "overview": st.Page(
            overview.page, title="Overview", icon=":material/insights:", url_path="overview"
        ),
        "gallery": st.Page(
            gallery.page, title="Gallery", icon=":material/grid_view:", url_path="gallery"
        ),
        "memorization": st.Page(
            memorization.page,
            title="Memorization",
            url_path="memorization",
            icon=":material/content_copy:",
        ),
        "card": st.Page(
            card.page, title="Model card", icon=":material/description:", url_path="card"
        ),
    }
    chosen = st.navigation([start, *pages.values()])
    if chosen == start:
        st.switch_page(pages["overview"], query_params=dict(st.query_params))
    with st.sidebar:
        parts.choose_run(list(runs.shown()))
    try:
        chosen.run()
    except AuditError as error:
        parts.warn(str(error))
    except duckdb.Error as error:
        parts.warn(f"the run cannot be read: {error}")


main()
