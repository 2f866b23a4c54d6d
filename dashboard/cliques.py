"""Seeds of one prompt that give the same image: the clique that Carlini et al. (2023) look for."""

from __future__ import annotations

from dataclasses import dataclass

import duckdb
import numpy as np
import streamlit as st
from numpy.typing import NDArray

from audit.errors import AuditError
from audit.store import Run

from . import runs
from .memorized import NEIGHBOURS
from .queries import Catalog

SEEDS = 24
"""So many images of a prompt are compared; more are counted and left out."""
PROMPTS = 200
DELTA = 0.15
"""Tiled ℓ2 up to which two seeds give the same image (Carlini et al. 2023, section 4.2)."""


@dataclass(frozen=True)
class Prompt:
    """One prompt that was asked as it stands.

    Attributes:
        seeds: its images; `clique`: the probe's largest set of them, ``None`` where it has none.
    """

    text: str
    seeds: int
    clique: int | None


@dataclass(frozen=True)
class Seed:
    """One image of a prompt."""

    request: str
    image: str


def prompts(database: duckdb.DuckDBPyConnection, views: Catalog) -> list[Prompt]:
    """Those with two seeds or more, the largest cliques first."""
    if not {"caption", "image", "request"} <= set(views.get(NEIGHBOURS, ())):
        return []
    clique = "max(clique)" if "clique" in views[NEIGHBOURS] else "NULL"
    rows = database.execute(
        # Two probes may ask the same of one seed: that is one image.
        f"SELECT caption, count(DISTINCT request) AS seeds, {clique} AS clique FROM {NEIGHBOURS} "
        f"WHERE {_base(views)} GROUP BY 1 HAVING seeds > 1 "
        "ORDER BY clique DESC NULLS LAST, seeds DESC, caption LIMIT ?",
        [PROMPTS],
    ).fetchall()
    return [
        Prompt(str(text), int(n), None if k is None or np.isnan(k) else int(k))
        for text, n, k in rows
    ]


def seeds(database: duckdb.DuckDBPyConnection, views: Catalog, text: str) -> list[Seed]:
    """The images of a prompt, in the order of their seeds as far as it is known."""
    order = 'min("index")' if "index" in views[NEIGHBOURS] else "request"
    rows = database.execute(
        f"SELECT request, any_value(image) FROM {NEIGHBOURS} WHERE caption = ? AND {_base(views)} "
        f"GROUP BY request ORDER BY {order}, request LIMIT ?",
        [text, SEEDS],
    ).fetchall()
    return [Seed(str(request), str(image)) for request, image in rows]


def _base(views: Catalog) -> str:
    return "image IS NOT NULL" + (" AND arm = 'base'" if "arm" in views[NEIGHBOURS] else "")


@st.cache_data(max_entries=64, show_spinner="Comparing the seeds …")
def distances(_run: Run, path: str, images: tuple[str, ...]) -> NDArray[np.float64]:
    """Tiled ℓ2 of every two images, shape (n, n), at the size of the first.

    Raises:
        AuditError: one of them is missing, damaged or lies outside of the run.
    """
    from audit.copies import pixels, tiled_l2_pairs

    loaded = []
    for digest in images:
        if runs.inside(_run, _run.image_path(digest)) is None:
            raise AuditError(f"image {digest[:12]}… is missing")
        loaded.append(_run.load_image(digest))
    size = loaded[0].size
    return tiled_l2_pairs(np.stack([pixels(image, size).astype(np.float32) for image in loaded]))
