"""Zoom and pan of all images of a page at once, kept in the address."""

from __future__ import annotations

import math
from pathlib import Path

import streamlit as st

KEY = "lens"
PARAMETER = "zoom"
WHOLE = (1.0, 0.0, 0.0)
"""Zoom, and where the left and upper edge lie in parts of a tile: all of the image."""
MOST = 32.0

HTML = """
<div role="group" aria-label="Zoom of all images">
<button type="button" data-act="out" aria-label="Zoom out" title="Zoom out">−</button>
<output aria-live="polite">100%</output>
<button type="button" data-act="in" aria-label="Zoom in" title="Zoom in">+</button>
<button type="button" data-act="all">Whole image</button>
<span>Ctrl and wheel or double click: zoom. Drag: pan. In the table: + − 0 and arrows.</span>
</div>
"""
CSS = """
div { display: flex; flex-wrap: wrap; gap: .4rem; align-items: center; font-family: var(--st-font);
  color: var(--st-text-color); font-size: .85rem; }
button { font: inherit; color: inherit; background: var(--st-secondary-background-color);
  border: 1px solid var(--st-border-color); border-radius: .4rem; min-width: 2rem; height: 2rem;
  padding: 0 .6rem; cursor: pointer; }
button:hover, button:focus-visible { border-color: var(--st-primary-color); outline: none;
  box-shadow: 0 0 0 1px var(--st-primary-color); }
output { min-width: 3.2rem; text-align: center; font-variant-numeric: tabular-nums; }
span { opacity: .72; }
@media (max-width: 1000px) { span { display: none; } }
"""
JS = (Path(__file__).parent / "js/lens.js").read_text(encoding="utf-8")

_mount = st.components.v2.component("t2i_audit_lens", html=HTML, css=CSS, js=JS)


def show() -> tuple[float, float, float]:
    """The buttons; the view that the address asks for."""
    view = wanted(st.query_params.get(PARAMETER, ""))
    _mount(data={"view": list(view)}, key=KEY, on_view_change=_keep)
    return view


def wanted(text: str) -> tuple[float, float, float]:
    """The view as the address has it; what makes no sense is all of the image.

    >>> wanted("2_-0.5_-1"), wanted("9999_0_0"), wanted("2_7_nan"), wanted("<b>")
    ((2.0, -0.5, -1.0), (32.0, 0.0, 0.0), (1.0, 0.0, 0.0), (1.0, 0.0, 0.0))
    """
    try:
        zoom, x, y = (float(part) for part in text.split("_"))
    except ValueError:
        return WHOLE
    if not all(map(math.isfinite, (zoom, x, y))):
        return WHOLE
    zoom = min(MOST, max(1.0, zoom))
    return zoom, min(0.0, max(1 - zoom, x)), min(0.0, max(1 - zoom, y))


def _keep() -> None:
    view = st.session_state[KEY].view
    try:
        said = "_".join(f"{float(part):.4g}" for part in view)
    except (TypeError, ValueError):
        return
    view = wanted(said)
    if view == WHOLE:
        st.query_params.pop(PARAMETER, None)
    else:
        st.query_params[PARAMETER] = "_".join(f"{part:.4g}" for part in view)
