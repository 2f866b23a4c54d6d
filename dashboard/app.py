"""The Streamlit script: navigation, the choice of the run, the page. See :mod:`.server`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path

import duckdb
import streamlit as st

from audit.errors import AuditError
from dashboard import parts, runs

HERE = Path(__file__).parent

PAGES = {
    "Results": [
        ("overview", "Overview", "insights"),
        ("gallery", "Gallery", "grid_view"),
        ("side_by_side", "Side by side", "compare"),
        ("compare", "Compare runs", "difference"),
        ("card", "Model card", "description"),
        ("calibration", "Known answers", "fact_check"),
    ],
    "Probes": [
        ("bias", "Bias", "groups"),
        ("languages", "Languages", "translate"),
        ("memorization", "Memorization", "content_copy"),
        ("filters", "Filters", "filter_alt"),
        ("watermarks", "Watermarks", "branding_watermark"),
    ],
    "People": [("review", "Review", "how_to_reg")],
}
"""Group → pages: the module in :mod:`.views`, which is the address too; title; Material icon."""


def main() -> None:
    """One rerun of the app."""
    st.set_page_config("t2i-audit", HERE / "icon.svg", layout="wide", initial_sidebar_state=220)
    st.html(f"<style>{_styles()}</style>")
    start = st.Page(lambda: None, default=True, title="Start", visibility="hidden")
    pages = {group: [_page(*row) for row in rows] for group, rows in PAGES.items()}
    chosen = st.navigation({"": [start]} | pages)
    if chosen == start:
        st.switch_page(pages["Results"][0], query_params=dict(st.query_params))
    # Who labels blind does not see the names of the runs, which may be those of models.
    veiled = chosen.url_path == "review" and len(runs.shown()) > 1
    with st.sidebar, st.expander("Which run") if veiled else nullcontext():
        parts.choose_run(list(runs.shown()))
    try:
        if chosen.url_path not in ("overview", "card"):  # they show what needs no index first
            parts.wait(parts.current()[1])
        chosen.run()
    except AuditError as error:
        parts.warn(str(error))
    except duckdb.Error as error:
        parts.warn(f"the run cannot be read: {error}")


def _page(name: str, title: str, icon: str) -> st.Page:
    return st.Page(_opener(name), title=title, icon=f":material/{icon}:", url_path=name)


def _opener(name: str) -> Callable[[], None]:
    def show() -> None:
        """A page's imports wait until somebody opens it."""
        import_module(f"dashboard.views.{name}").page()

    return show


def _styles() -> str:
    """The style of all pages, then what each page brings."""
    files = [HERE / "style.css", *sorted(HERE.glob("css/*.css"))]
    return "\n".join(path.read_text(encoding="utf-8") for path in files)


main()
