"""The seeds of one prompt: which of them give the same image, without a look at training images."""

from __future__ import annotations

from html import escape
from typing import Any

import altair as alt
import duckdb
import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray

from audit.store import Run
from dashboard import address, cliques, parts
from dashboard.cliques import DELTA, Prompt, Seed
from dashboard.queries import Catalog
from dashboard.threshold import slider


def show(database: duckdb.DuckDBPyConnection, views: Catalog, index: int, run: Run) -> None:
    """The choice of a prompt, its largest clique, every distance."""
    known = {prompt.text: prompt for prompt in cliques.prompts(database, views)}
    if not known:
        return
    st.header("Seeds that agree")
    # A caption beyond the first ones can still be linked to.
    wanted = st.query_params.get("prompt")
    if wanted and wanted not in known and (n := len(cliques.seeds(database, views, wanted))) > 1:
        known[wanted] = Prompt(wanted, n, None)
    address.one_of("prompt", known, "prompt with two seeds or more")
    with st.grid(min_column_width=320):
        text = st.selectbox(
            "Prompt",
            list(known),
            key="prompt",
            bind="query-params",
            help="Those whose seeds agree most come first.",
        )
        delta = slider(
            "Same image up to a tiled ℓ2 of",
            "delta",
            0.0,
            1.0,
            _asked(run),
            help="Carlini et al. (2023) take 0.15. Two seeds that are this near give one image.",
        )
    seeds = cliques.seeds(database, views, text)
    apart = cliques.distances(run, str(run.path), tuple(seed.image for seed in seeds))
    from audit.copies import largest_clique

    found = largest_clique(apart, delta)
    reveal = st.query_params.get("reveal", "").lower() in ("1", "true")
    left = known[text].seeds - len(seeds)
    st.html(
        f'<p class="t2i-total"><b>{len(found)} of {len(seeds)}</b> seeds lie within '
        f"{delta:g} of each other"
        + (f', <span class="t2i-dim">{left:,} more are not compared</span>' if left else "")
        + f". {_closest(apart)}</p>"
        + _tiles(index, seeds, found, text, reveal)
    )
    if len(seeds) < 10:
        st.caption(
            "Carlini et al. take a caption as extracted from 10 of 500 seeds on; with fewer seeds "
            "a clique is a hint."
        )
    with st.expander("Every distance"):
        order = [*found, *(n for n in range(len(seeds)) if n not in found)]
        frame = _frame(apart, order)
        st.altair_chart(
            _matrix(frame),
            height=min(560, 120 + 26 * len(order)),
            alt=f"Tiled ℓ2 of every two of {len(order)} seeds, the clique first",
        )
        st.dataframe(
            pd.DataFrame(apart[np.ix_(order, order)], order, [str(n) for n in order]),
            alt="Tiled ℓ2 of every two seeds",
        )


def _asked(run: Run) -> float:
    """The distance that the run was analysed with."""
    spec = run.info.get("spec")
    probes = spec.get("probes") if isinstance(spec, dict) else None
    options = probes.get("memorization") if isinstance(probes, dict) else None
    found = options.get("clique_distance") if isinstance(options, dict) else None
    return float(found) if isinstance(found, float) and 0 < found <= 1 else DELTA


def _closest(apart: NDArray[np.float64]) -> str:
    upper = apart[np.triu_indices(len(apart), k=1)]
    return (
        f"The nearest two are {parts.number(float(upper.min()))} apart, the median is "
        f"{parts.number(float(np.median(upper)))}."
    )


def _tiles(index: int, seeds: list[Seed], found: list[int], text: str, reveal: bool) -> str:
    tiles = ""
    for number in [*found, *(n for n in range(len(seeds)) if n not in found)]:
        seed, inside = seeds[number], number in found and len(found) > 1
        address = parts.link("gallery", probe="memorization", request=seed.request)
        mark = '<span class="t2i-mark">same image</span>' if inside else ""
        tiles += (
            f'<a class="t2i-tile{"" if inside else " t2i-apart"}" role="listitem" href="{address}" '
            f'target="_self">'
            + parts.picture(index, seed.image, f"seed {number}: {text}", reveal=reveal)
            + f'{mark}<span class="t2i-score">seed {number}</span></a>'
        )
    return f'<div class="t2i-grid t2i-seeds" role="list" aria-label="{escape(text)}">{tiles}</div>'


def _frame(apart: NDArray[np.float64], order: list[int]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"row": f"seed {a}", "column": f"seed {b}", "distance": apart[a, b], "x": i, "y": j}
            for i, a in enumerate(order)
            for j, b in enumerate(order)
            if a != b
        ]
    )


def _matrix(frame: pd.DataFrame) -> Any:
    names = list(dict.fromkeys(frame.sort_values("x").row))
    base = alt.Chart(frame).encode(
        x=alt.X("column:N", title=None, sort=names, axis=alt.Axis(orient="top", labelAngle=-45)),
        y=alt.Y("row:N", title=None, sort=names),
        tooltip=["row", "column", alt.Tooltip("distance", format=".3f")],
    )
    colour = alt.Scale(scheme="viridis", reverse=True)
    return base.mark_rect().encode(color=alt.Color("distance:Q", title="tiled ℓ2", scale=colour))
